//! The units in `packaging/`, option by option, beside what docs/deploy.md and the program say.

use std::{collections::BTreeMap, fs, path::Path};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A unit's options, as `Section.Key`; of one that is given again, its values with spaces between them.
fn options(unit: &str) -> BTreeMap<String, String> {
    let text = file(&format!("packaging/{unit}"));
    let mut section = "";
    let mut options = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("no option: {line}"));
        let there: &mut String = options.entry(format!("{section}.{key}")).or_default();
        let lists = ["DeviceAllow", "SystemCallFilter"];
        assert!(there.is_empty() || lists.contains(&key), "{key} is given twice");
        there.push_str(value);
        there.push(' ');
    }
    options
}

/// What takes something away, or leaves little, and must stay as it is unless somebody has looked at what the gateway needs.
const SANDBOX: [(&str, &str); 20] = [
    ("NoNewPrivileges", "yes"),
    ("DevicePolicy", "closed"),
    ("DeviceAllow", "/dev/vfio/vfio rw char-vfio rw /dev/net/tun rw"),
    ("ProtectSystem", "strict"),
    ("ProtectHome", "yes"),
    ("PrivateTmp", "yes"),
    ("ProtectProc", "invisible"),
    ("ProtectClock", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("LockPersonality", "yes"),
    ("MemoryDenyWriteExecute", "yes"),
    ("RemoveIPC", "yes"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallErrorNumber", "EPERM"),
];

pub fn the_unit_is_as_the_docs_say() {
    let (server, manual) = (file("docs/deploy.md"), file("docs/man/weir.8"));
    let package = file("gateway/Cargo.toml");
    let mut options = options("weir.service");
    let mut take =
        |key: &str| options.remove(key).unwrap_or_else(|| panic!("the unit has no {key}")).trim().to_owned();

    // The programs and the configuration are where the package puts them.
    assert_eq!(take("Service.ExecStart"), "/usr/sbin/weir --config /etc/weir/weir.toml");
    assert_eq!(take("Service.ExecReload"), "/usr/bin/weirctl apply /etc/weir/rules.save");
    for asset in [
        "[\"target/release/weir\", \"usr/sbin/\"",
        "[\"target/release/weirctl\", \"usr/bin/\"",
        "\"etc/weir/weir.toml\"",
    ] {
        assert!(package.contains(asset), "the package lacks {asset}");
    }
    for step in [
        "weir --check --config /etc/weir/weir.toml\n",
        "systemctl enable --now weir\n",
        "weirctl save /etc/weir/rules.save\n",
        "systemctl reload weir\n",
    ] {
        assert!(server.contains(step), "deploy.md lacks: {step}");
    }
    for page in take("Unit.Documentation").split(' ') {
        let (name, section) = page.trim_start_matches("man:").trim_end_matches(')').split_once('(').unwrap();
        assert!(file(&format!("docs/man/{name}.{section}")).starts_with(".ie"), "there is no {page}");
    }

    // How it starts, and what follows its end.
    assert_eq!(take("Service.Type"), "notify");
    assert!(manual.contains("services of Type=notify"));
    assert!(server.contains("The unit is started when the gateway forwards packets (`ready`)"));
    assert_eq!((take("Service.Restart"), take("Service.RestartSec")), ("on-failure".into(), "100ms".into()));
    assert_eq!(take("Unit.StartLimitIntervalSec"), "0");
    assert!(server.contains("A failure starts it again at once, as often as it takes"));
    let wrong = weir::cli::EXIT_CONFIGURATION.to_string();
    assert_eq!(take("Service.RestartPreventExitStatus"), wrong);
    assert!(
        server.contains(&format!("(exit status {wrong}) doesn't"))
            && manual.contains(&format!("{wrong} for a bad"))
    );
    let watchdog = take("Service.WatchdogSec");
    assert!(server.contains(&format!("(`WatchdogSec={watchdog}`)")) && manual.contains("WATCHDOG_USEC"));

    // The directory of the control socket; nothing else has to be writable.
    let socket =
        weir::config::Config::parse("[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n", Path::new("f"));
    let socket = socket.unwrap().socket;
    let directory = Path::new("/run").join(take("Service.RuntimeDirectory"));
    assert_eq!(socket.parent(), Some(directory.as_path()));
    assert!(manual.contains(socket.to_str().unwrap()));

    // The user that the package makes, with one capability of those that weir(8) names; both tables say why.
    assert_eq!((take("Service.User"), take("Service.Group")), ("weir".into(), "weir".into()));
    assert!(file("packaging/sysusers.conf").contains("\nu weir "));
    assert_eq!(take("Service.LimitMEMLOCK"), "infinity");
    let capability = take("Service.CapabilityBoundingSet");
    assert_eq!(
        (capability.as_str(), take("Service.AmbientCapabilities")),
        ("CAP_NET_ADMIN", capability.clone())
    );
    assert!(manual.contains(&capability) && server.contains(&format!("| {capability} |")));
    for (key, value) in SANDBOX {
        assert_eq!(take(&format!("Service.{key}")), value, "{key}");
    }
    assert_eq!(take("Service.RestrictAddressFamilies"), "AF_UNIX AF_NETLINK AF_INET AF_INET6");
    assert_eq!(take("Service.SystemCallFilter"), "@system-service ~@privileged @keyring @obsolete @chown");
    for drop_in in ["hugepages.conf", "interfaces.conf", "host-namespace.conf"] {
        assert!(
            server.contains(&format!("| `{drop_in}` |")) && package.contains(&format!("packaging/{drop_in}"))
        );
    }
    for taken in [
        "Unit.Description",
        "Unit.After",
        "Unit.Before",
        "Service.OOMScoreAdjust",
        "Service.TimeoutStartSec",
        "Service.UMask",
        "Service.LimitCORE",
        "Install.WantedBy",
    ] {
        options.remove(taken);
    }
    // An option that takes something away needs a look at what the gateway needs, and a line above.
    assert_eq!(options, BTreeMap::new(), "options that this test knows nothing of");
}

/// What weir-serve.service may do less than that.
const LESS: [(&str, &str); 14] = [
    ("DeviceAllow", ""),
    ("DynamicUser", "yes"),
    ("CapabilityBoundingSet", ""),
    ("PrivateDevices", "yes"),
    ("PrivateUsers", "yes"),
    ("ProcSubset", "pid"),
    ("ProtectKernelTunables", "yes"),
    ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
    ("SystemCallFilter", "@system-service ~@privileged @resources @keyring @obsolete @memlock @setuid"),
    ("UMask", "0077"),
    ("MemoryMax", "1G"),
    ("TasksMax", "32"),
    ("CPUWeight", "20"),
    ("OOMScoreAdjust", "500"),
];

pub fn the_unit_for_serve_may_only_look() {
    let (deploy, monitoring) = (file("docs/deploy.md"), file("docs/monitoring.md"));
    let options = options("weir-serve.service");
    let value = |key: &str| options.get(&format!("Service.{key}")).map_or("", |value| value.trim());
    assert_eq!(value("ExecStart"), "/usr/bin/weirctl serve $OPTIONS");
    assert_eq!(value("Type"), "notify");
    let file_of_options = value("EnvironmentFile").trim_start_matches('-');
    assert!(monitoring.contains(&format!("`OPTIONS=` in `{file_of_options}`")), "{file_of_options}");
    // The packaged configuration has the socket, and its group is the unit's and the gateway's user's.
    let (packaged, users) = (file("packaging/weir.toml"), file("packaging/sysusers.conf"));
    let socket = value("Environment").strip_prefix("WEIR_SOCKET=").expect("a socket");
    assert!(packaged.contains(&format!("\nread_socket = {socket:?}\n")), "{socket}");
    let group = value("SupplementaryGroups");
    assert!(packaged.contains(&format!("\nread_socket_group = {group:?}\n")), "{group}");
    assert!(users.contains(&format!("\ng {group} ")) && users.contains(&format!("\nm weir {group}\n")));
    assert!(monitoring.contains(&format!("in the group `{group}`")) && deploy.contains(socket));
    let same = SANDBOX.iter().filter(|(key, _)| LESS.iter().all(|(less, _)| less != key));
    for (key, wanted) in same.chain(&LESS) {
        assert_eq!(value(key), *wanted, "{key}");
    }
    for step in
        ["systemctl enable --now weir-serve", "`weir-serve.service` runs as a user that systemd makes"]
    {
        assert!(deploy.contains(step), "deploy.md lacks: {step}");
    }
    assert!(file("gateway/Cargo.toml").matches("packaging/weir-serve.service").count() == 2);
}

/// The steps of deploy.md change the packaged configuration as they say.
pub fn the_steps_fit_the_sample() {
    let (server, sample) = (file("docs/deploy.md"), file("packaging/weir.toml"));
    let save = server.find("weirctl save /etc/weir/rules.save").expect("a first save");
    let named = server.find("sed -i 's/^# rules = /rules = /' /etc/weir/weir.toml").expect("rules are named");
    assert!(save < named, "the file is named once it is there");
    let rules: Vec<&str> = sample.lines().filter(|line| line.contains("rules =")).collect();
    assert_eq!(rules, ["# rules = \"rules.save\""], "what sed looks for, and the file that is saved");
    // It has no port; with the comments off it is a configuration.
    let parse = |text: &str| weir::config::Config::parse(text, Path::new("f"));
    assert!(parse(&sample).unwrap_err().to_string().contains("no [[port]]"));
    let (head, ports) = sample.split_once("# [[port]]").expect("ports in comments");
    let ports = format!("# [[port]]{ports}").replace("# ", "");
    assert_eq!(
        parse(&format!("{head}{ports}")).map(|config| config.ports.len()).map_err(|e| e.to_string()),
        Ok(2)
    );
}
