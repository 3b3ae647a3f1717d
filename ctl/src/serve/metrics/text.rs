//! The two formats in which Prometheus reads metrics: its text format 0.0.4, and OpenMetrics 1.0 for whoever asks for
//! it by `Accept`.

use std::fmt::{self, Display, Write};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Format {
    /// Prometheus's text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What `Accept` prefers; without a preference it's the text format, which all read.
    pub(in crate::serve) fn accepted(accept: &str) -> Self {
        let (mut open, mut text) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
            let named =
                |name: &str| parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|p| p.1);
            let quality = named("q").map_or(1.0, |q| q.parse().unwrap_or(0.0));
            match kind.as_str() {
                "application/openmetrics-text"
                    if named("version").is_none_or(|v| v.trim_matches('"') == "1.0.0") =>
                {
                    open = f64::max(open, quality);
                }
                "text/plain" | "text/*" | "*/*" => text = f64::max(text, quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type`.
    pub(in crate::serve) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Grows; its samples are called `NAME_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Is 1, and says something by its labels; its samples are called `NAME_info`.
    Info,
}

impl Kind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge => "",
            Self::Info => "_info",
        }
    }
}

/// A metric, without the suffix that its kind gives it.
#[derive(Clone, Debug)]
pub(super) struct Metric<'a> {
    pub name: &'a str,
    pub kind: Kind,
    pub help: &'a str,
}

/// Writes metrics into a buffer.
pub(super) struct Page<'a> {
    pub out: &'a mut String,
    pub format: Format,
}

impl Page<'_> {
    /// `# HELP` and `# TYPE`: once a metric, before its samples.
    pub(super) fn head(&mut self, metric: &Metric<'_>) {
        let Metric { name, kind, help } = metric;
        let (suffix, kind) = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Counter) => ("", "counter"),
            (Format::OpenMetrics, Kind::Info) => ("", "info"),
            (Format::Text, Kind::Counter) => (kind.suffix(), "counter"),
            (Format::Text, Kind::Info) => (kind.suffix(), "gauge"),
            (_, Kind::Gauge) => ("", "gauge"),
        };
        // A String takes what it is given.
        let _ = write!(self.out, "# HELP {name}{suffix} ");
        let quotes = self.format == Format::OpenMetrics;
        // A String takes what it is given.
        let _ = write!(Escaped { out: self.out, quotes }, "{help}");
        // A String takes what it is given.
        let _ = writeln!(self.out, "\n# TYPE {name}{suffix} {kind}");
    }

    /// A sample.
    pub(super) fn sample(
        &mut self,
        metric: &Metric<'_>,
        labels: &[(&str, &dyn Display)],
        value: impl Display,
    ) {
        let out = &mut *self.out;
        out.push_str(metric.name);
        out.push_str(metric.kind.suffix());
        let mut before = '{';
        for (label, value) in labels {
            out.push(before);
            out.push_str(label);
            out.push_str("=\"");
            // A String takes what it is given.
            let _ = write!(Escaped { out, quotes: true }, "{value}");
            out.push('"');
            before = ',';
        }
        if !labels.is_empty() {
            out.push('}');
        }
        // A String takes what it is given.
        let _ = writeln!(out, " {value}");
    }

    /// After everything else.
    pub(super) fn end(&mut self) {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
    }
}

/// Escapes what stands in a label's value, or, without `quotes`, in a help text.
struct Escaped<'a> {
    out: &'a mut String,
    quotes: bool,
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '"' if self.quotes => self.out.push_str("\\\""),
                c => self.out.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let mut out = String::new();
        let mut page = Page { out: &mut out, format };
        let counter =
            Metric { name: "weir_x", kind: Kind::Counter, help: "Back\\slash, \"quotes\",\nlines." };
        page.head(&counter);
        page.sample(&counter, &[("a", &"\\ \" \n"), ("b", &7)], 3);
        let info = Metric { name: "weir_build", kind: Kind::Info, help: "Build." };
        page.head(&info);
        page.sample(&info, &[("version", &"1")], 1);
        let gauge = Metric { name: "weir_y", kind: Kind::Gauge, help: "Share." };
        page.head(&gauge);
        page.sample(&gauge, &[], 0.5);
        page.end();
        out
    }

    #[test]
    fn both_formats() {
        let text = [
            "# HELP weir_x_total Back\\\\slash, \"quotes\",\\nlines.",
            "# TYPE weir_x_total counter",
            "weir_x_total{a=\"\\\\ \\\" \\n\",b=\"7\"} 3",
            "# HELP weir_build_info Build.",
            "# TYPE weir_build_info gauge",
            "weir_build_info{version=\"1\"} 1",
            "# HELP weir_y Share.",
            "# TYPE weir_y gauge",
            "weir_y 0.5\n",
        ];
        assert_eq!(written(Format::Text), text.join("\n"));
        let open = [
            "# HELP weir_x Back\\\\slash, \\\"quotes\\\",\\nlines.",
            "# TYPE weir_x counter",
            "weir_x_total{a=\"\\\\ \\\" \\n\",b=\"7\"} 3",
            "# HELP weir_build Build.",
            "# TYPE weir_build info",
            "weir_build_info{version=\"1\"} 1",
            "# HELP weir_y Share.",
            "# TYPE weir_y gauge",
            "weir_y 0.5",
            "# EOF\n",
        ];
        assert_eq!(written(Format::OpenMetrics), open.join("\n"));
    }

    #[test]
    fn the_format_is_what_is_accepted() {
        // As Prometheus 2.42 asks.
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("application/openmetrics-text"), Format::OpenMetrics);
        for text in [
            "",
            "*/*",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.5",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=x",
        ] {
            assert_eq!(Format::accepted(text), Format::Text, "{text}");
        }
    }
}
