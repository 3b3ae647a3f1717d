//! `docs/weir.service`, option by option, beside what the documents and the program say.

use std::{collections::BTreeMap, fs, path::Path};

fn doc(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The unit's options, as `Section.Key`.
fn options() -> BTreeMap<String, String> {
    let text = doc("weir.service");
    let mut section = "";
    let mut options = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("no option: {line}"));
        let before = options.insert(format!("{section}.{key}"), value.to_owned());
        assert_eq!(before, None, "{key} is given twice");
    }
    options
}

/// Names that a text has which begin so, as capabilities do.
fn words<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
    let all = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    all.filter(move |word| word.starts_with(start))
}

pub fn the_unit_is_as_the_docs_say() {
    let (unit, server, manual) = (doc("weir.service"), doc("server.md"), doc("man/weir.8"));
    let mut options = options();
    let mut take = |key: &str| options.remove(key).unwrap_or_else(|| panic!("the unit has no {key}"));

    // The programs and the configuration are where server.md installs them.
    let start = take("Service.ExecStart");
    assert_eq!(start, "/usr/local/sbin/weir --config /etc/weir/weir.toml");
    assert_eq!(take("Service.ExecStartPre"), start.replace("weir --config", "weir --check --config"));
    for step in [
        "install target/release/weir target/release/weirctl /usr/local/sbin/\n",
        "docs/weir.toml /etc/weir/weir.toml\n",
        "docs/weir.service /etc/systemd/system/\n",
        "weir --check --config /etc/weir/weir.toml\n",
        "systemctl enable --now weir\n",
    ] {
        assert!(server.contains(step), "server.md lacks: {step}");
    }
    assert!(unit.starts_with("# systemd unit: /etc/systemd/system/weir.service."));
    for page in take("Unit.Documentation").split(' ') {
        let (name, section) = page.trim_start_matches("man:").trim_end_matches(')').split_once('(').unwrap();
        assert!(server.contains(&format!("docs/man/{name}.{section}")), "server.md doesn't install {page}");
    }

    // How it starts, and what follows its end.
    assert_eq!(take("Service.Type"), "notify");
    assert!(manual.contains("services of Type=notify"));
    assert!(server.contains("The unit is started when the gateway forwards packets (`ready`)"));
    assert_eq!((take("Service.Restart"), take("Service.RestartSec")), ("on-failure".into(), "1".into()));
    assert!(server.contains("A failure starts it again after a second"));
    let wrong = weir::cli::EXIT_CONFIGURATION.to_string();
    assert_eq!(take("Service.RestartPreventExitStatus"), wrong);
    assert!(
        server.contains(&format!("(exit status {wrong}) doesn't"))
            && manual.contains(&format!("{wrong} for a bad"))
    );

    // The directory of the control socket; nothing else has to be writable but what EAL has in /run/dpdk as root.
    let socket =
        weir::config::Config::parse("[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n", Path::new("f"));
    let socket = socket.unwrap().socket;
    let directory = Path::new("/run").join(take("Service.RuntimeDirectory"));
    assert_eq!(socket.parent(), Some(directory.as_path()));
    assert!(manual.contains(socket.to_str().unwrap()));

    // It runs as root, with every capability that weir(8) names, and may lock memory.
    assert_eq!(take("Service.LimitMEMLOCK"), "infinity");
    assert!(
        manual.contains("Run as root, or with ") && manual.contains("CAP_IPC_LOCK (locked and huge pages)")
    );
    if let Some(bounds) = options.remove("Service.CapabilityBoundingSet") {
        for capability in words(&manual, "CAP_") {
            assert!(bounds.split(' ').any(|b| b == capability), "{capability} is out of bounds");
        }
    }
    for taken in
        ["Unit.Description", "Unit.After", "Unit.Before", "Service.OOMScoreAdjust", "Install.WantedBy"]
    {
        options.remove(taken);
    }
    // An option that takes something away needs a look at what the gateway needs, and a line above.
    assert_eq!(options, BTreeMap::new(), "options that this test knows nothing of");
}

/// The steps of server.md change the sample as they say.
pub fn the_steps_fit_the_sample() {
    let (server, sample) = (doc("server.md"), doc("weir.toml"));
    let save = server.find("weirctl save /etc/weir/rules.save").expect("a first save");
    let named = server.find("sed -i 's/^# rules = /rules = /' /etc/weir/weir.toml").expect("rules are named");
    assert!(save < named, "the file is named once it is there");
    let rules: Vec<&str> = sample.lines().filter(|line| line.contains("rules =")).collect();
    assert_eq!(rules, ["# rules = \"rules.save\""], "what sed looks for, and the file that is saved");
}
