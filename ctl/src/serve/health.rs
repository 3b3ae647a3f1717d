//! `/healthz` and `/readyz`: whether the gateway lives, and whether it should be sent traffic.

use serde_json::{Value, json};

use super::look::Brief;
use crate::commands::ready::{self, Needs};

/// Whether all is well, as JSON: `{"ready": false, "reasons": ["port wan: no link"]}`.
pub(super) fn document(what: &str, reasons: &[String]) -> Value {
    json!({ what: reasons.is_empty(), "reasons": reasons })
}

/// What isn't alive.
pub(super) fn health(brief: &Brief) -> Vec<String> {
    ready::dead(&brief.status, &brief.hanging)
}

/// Why the gateway should be sent no traffic: what `weirctl ready --rules` says.
pub(super) fn readiness(brief: &Brief) -> Vec<String> {
    ready::reasons(&brief.status, &brief.hanging, Needs::Rules { snat: brief.snat.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::metrics::samples;

    #[test]
    fn reasons_are_named() {
        let told = |change: &dyn Fn(&mut Brief)| {
            let mut brief = samples::brief();
            change(&mut brief);
            (health(&brief).len(), readiness(&brief).join("; "))
        };
        assert_eq!(told(&|_| {}), (0, String::new()));
        assert_eq!(told(&|b| b.hanging = vec![1]), (1, "worker 1 doesn't poll".into()));
        assert_eq!(told(&|b| b.status.ports[0].up = false), (0, "port wan: no link".into()));
        let empty = |b: &mut Brief| {
            b.status.services = 0;
            b.snat.clear();
        };
        assert!(told(&empty).1.starts_with("no rules are loaded"));
    }

    #[test]
    fn the_document_says_why_not() {
        assert_eq!(document("ready", &[]).to_string(), r#"{"ready":true,"reasons":[]}"#);
        let told = document("healthy", &["worker 1 doesn't poll".into()]);
        assert_eq!(told.to_string(), r#"{"healthy":false,"reasons":["worker 1 doesn't poll"]}"#);
    }
}
