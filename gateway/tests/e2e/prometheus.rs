//! A real Prometheus scrapes `weirctl serve`, and evaluates every expression that docs/monitoring has.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use lab::{
    process::{Process, must, wait_until},
    topology::Options,
};
use serde_json::Value;

use crate::{
    scene::Scene,
    serve::{AT, Serve},
};

const LIMIT: Duration = Duration::from_secs(60);
/// Where it listens, in the gateway's namespace.
const PROMETHEUS: &str = "127.0.0.1:9090";

/// A Prometheus that scrapes each second.
struct Prometheus<'a> {
    scene: &'a Scene,
    _process: Process,
}

impl<'a> Prometheus<'a> {
    /// With the rules of docs/monitoring, except that what waits for minutes in production is told at once.
    fn start(scene: &'a Scene) -> Self {
        let folder = scene.network.lab.subdirectory("prometheus");
        let rules = fs::read_to_string(documentation("weir.rules.yml")).expect("the rules");
        let hasty: Vec<&str> = rules.lines().filter(|line| !line.trim_start().starts_with("for:")).collect();
        fs::write(folder.join("rules.yml"), hasty.join("\n")).expect("a file");
        let configuration = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [ rules.yml ]\n\
             scrape_configs: [ {{ job_name: weir, static_configs: [ {{ targets: [ \"{AT}\" ] }} ] }} ]\n"
        );
        fs::write(folder.join("prometheus.yml"), configuration).expect("a file");
        let mut command = scene.network.gateway.command("prometheus");
        command
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"));
        let _process = Process::start("prometheus", &mut command, &folder.join("prometheus.log"));
        Self { scene, _process }
    }

    /// The `data` of an answer of its API; null before it listens, or if it found a fault.
    fn ask(&self, path: &str, query: Option<&str>) -> Value {
        let mut command = self.scene.network.gateway.command("curl");
        command.args(["-sS", "-G", "--max-time", "20"]);
        if let Some(query) = query {
            command.arg("--data-urlencode").arg(format!("query={query}"));
        }
        let output = command.arg(format!("http://{PROMETHEUS}/api/v1/{path}")).output().expect("curl runs");
        serde_json::from_slice::<Value>(&output.stdout).map(|mut v| v["data"].take()).unwrap_or_default()
    }

    /// The series that an expression has now.
    fn series(&self, expression: &str) -> Vec<Value> {
        let data = self.ask("query", Some(expression));
        let result = data["result"].as_array();
        result.unwrap_or_else(|| panic!("{expression}: {data}")).clone()
    }

    /// Waits until there are all metrics of an expression: rates need two scrapes. Of a metric that there isn't an
    /// expression is evaluated, too: to nothing.
    fn knows_all(&self, expression: &str) {
        for name in names(expression) {
            let what = format!("{name}, of {expression}");
            wait_until(&what, LIMIT, || (!self.series(name).is_empty()).then_some(()));
        }
    }

    /// The value of an expression's first series.
    fn first(&self, expression: &str) -> Option<String> {
        let data = self.ask("query", Some(expression));
        data["result"][0]["value"][1].as_str().map(str::to_owned)
    }
}

fn documentation(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring").join(file)
}

/// The expressions of the Grafana board, with what Grafana puts in place of its variables.
fn board_expressions() -> BTreeSet<String> {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(of) => {
                found.extend(of.get("expr").and_then(Value::as_str).map(str::to_owned));
                of.values().for_each(|inner| collect(inner, found));
            }
            Value::Array(of) => of.iter().for_each(|inner| collect(inner, found)),
            _ => {}
        }
    }
    let board = fs::read_to_string(documentation("weir.board.json")).expect("the board");
    let mut found = BTreeSet::new();
    collect(&serde_json::from_str(&board).expect("JSON"), &mut found);
    let values = [("$__rate_interval", "10s"), ("$instance", ".*"), ("$service", ".*")];
    let found: BTreeSet<String> = found
        .into_iter()
        .map(|expression| values.iter().fold(expression, |e, (name, value)| e.replace(name, value)))
        .collect();
    assert!(found.len() > 25 && found.iter().all(|expression| !expression.contains('$')), "{found:?}");
    found
}

/// The names of metrics in an expression.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c));
    words.filter(|word| ["weir_", "weir:", "node_ipvs_"].iter().any(|begin| word.starts_with(begin)))
}

/// A gateway that has all that metrics are of: services, servers with a limit, SNAT, sessions.
fn busy() -> Scene {
    let scene = Scene::fullnat(&Options::workers(1));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    scene.serve("-t", 81, "rr", &[(0, 0)]);
    scene.gateway.ctl(&format!(
        "-e -t {0}:80 -r {1}:80 --fullnat -w 1 -x 100",
        lab::topology::VIP,
        scene.network.servers[0].address
    ));
    scene.gateway.ctl("snat add out --inside 10.20.0.0/24 --port wan --pool 192.168.80.9");
    assert_eq!(scene.answers(5).len(), 5);
    scene
}

#[test]
fn prometheus_knows_every_expression_of_the_documentation() {
    let scene = busy();
    let _serve = Serve::start(&scene, &[], &[]);
    let prometheus = Prometheus::start(&scene);
    wait_until("a scrape", LIMIT, || prometheus.first("up").filter(|up| up == "1"));
    assert_eq!(prometheus.first("weir_services").as_deref(), Some("2"));
    assert_eq!(prometheus.first("min(node_ipvs_backend_weight)").as_deref(), Some("0"));
    // The only server of the second service has the weight 0.
    let alert = "ALERTS{alertname=\"WeirServiceWithoutServers\",alertstate=\"firing\"}";
    wait_until("the alert", LIMIT, || prometheus.first(alert).filter(|fires| fires == "1"));
    let rules = wait_until("every rule to be evaluated", LIMIT, || {
        let rules = rules(&prometheus);
        (!rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown")).then_some(rules)
    });
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        prometheus.knows_all(rule["query"].as_str().expect("an expression"));
    }
    for expression in board_expressions() {
        prometheus.knows_all(&expression);
        prometheus.series(&expression);
    }
    // No alert but those that this gateway earns.
    let firing: BTreeSet<String> = prometheus
        .series("ALERTS{alertstate=\"firing\"}")
        .iter()
        .filter_map(|alert| alert["metric"]["alertname"].as_str().map(str::to_owned))
        .collect();
    let earned = ["WeirRestarted", "WeirServiceWithoutServers", "WeirWarnings", "WeirWorkerBusy"];
    assert!(firing.iter().all(|alert| earned.contains(&alert.as_str())), "{firing:?}");
    scene.gateway.stop();
}

fn rules(prometheus: &Prometheus<'_>) -> Vec<Value> {
    let data = prometheus.ask("rules", None);
    let groups = data["groups"].as_array().cloned().unwrap_or_default();
    groups.iter().filter_map(|group| group["rules"].as_array().cloned()).flatten().collect()
}

/// promtool reads the rules as Prometheus does, and says more.
#[test]
fn promtool_finds_no_fault_with_the_rules() {
    let said = must(
        std::process::Command::new("promtool").args(["check", "rules"]).arg(documentation("weir.rules.yml")),
    );
    assert!(said.contains("SUCCESS"), "{said}");
}
