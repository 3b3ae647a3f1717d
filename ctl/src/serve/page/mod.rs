//! `/`: the status page. It is one file without anything from elsewhere. Its tables work without script, and refresh
//! with it; what the gateway says is escaped, and the policy that the browser is given allows only the one script.

mod html;
mod sections;
mod services;

use std::{
    iter,
    sync::{Arc, OnceLock},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue},
};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use self::html::Html;
use super::{asker::Unanswered, body::Body, look::Look, query};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// What is asked of the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Only services with this in their names, or those of their servers; lower case.
    filter: String,
    /// Only what the script puts in place of what is there.
    part: bool,
}

impl Asked {
    /// `q` and `part` of a request.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub(super) fn read(query: &str) -> Result<Self, String> {
        let mut asked = Self::default();
        for (name, value) in query::parse(query)? {
            match name.as_str() {
                "q" => asked.filter = value.trim().to_lowercase(),
                "part" => asked.part = true,
                _ => return Err(format!("no parameter `{name}': there are q and part")),
            }
        }
        Ok(asked)
    }
}

/// The page of a look, or one that says why there is none.
pub(super) fn reply(
    look: Result<Arc<Look>, Unanswered>,
    asked: Asked,
    permit: OwnedSemaphorePermit,
) -> Response<Body> {
    let status = if look.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let pieces: Box<dyn Iterator<Item = Bytes> + Send> = match look {
        Ok(look) => Box::new(pieces(look, asked)),
        Err(error) => Box::new(iter::once(down(&error.to_string(), &asked))),
    };
    let mut response = Response::new(Body::Pieces { pieces, _permit: permit });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert("content-security-policy", policy().clone());
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

/// What a browser may do with the page: run this script, use this style, ask here for more.
fn policy() -> &'static HeaderValue {
    static POLICY: OnceLock<HeaderValue> = OnceLock::new();
    POLICY.get_or_init(|| {
        let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
        let text = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            hash(SCRIPT),
            hash(STYLE)
        );
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("default-src 'none'"))
    })
}

fn pieces(look: Arc<Look>, asked: Asked) -> impl Iterator<Item = Bytes> + Send {
    let mut first = Html::default();
    if !asked.part {
        head(&mut first, &asked);
    }
    sections::write(&look, &mut first);
    let part = asked.part;
    let services = services::Services::new(look, asked.filter);
    let last = (!part).then(tail);
    iter::once(first.into_bytes()).chain(services).chain(last)
}

fn head(html: &mut Html, asked: &Asked) {
    html.raw(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Weir</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">\n\
         <noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\n<style>",
    );
    html.raw(STYLE);
    html.raw("</style></head><body>\n<header><h1>Weir</h1><p id=\"banner\" role=\"status\"></p>\n");
    html.raw("<form method=\"get\" action=\"/\" role=\"search\"><label>Filter services ");
    html.raw("<input type=\"search\" name=\"q\" id=\"filter\" autocomplete=\"off\" placeholder=\"tcp/192.0.2.10:80\" value=\"");
    html.text(&asked.filter);
    html.raw("\"></label> <button>Filter</button></form></header>\n<main>\n");
}

fn tail() -> Bytes {
    let mut html = Html::default();
    html.raw("</main>\n<footer><a href=\"/metrics\">metrics</a> <a href=\"/healthz\">healthz</a> <a href=\"/readyz\">readyz</a> ");
    html.raw("<a href=\"/stub_status\">stub_status</a> <a href=\"/v1/\">JSON</a></footer>\n<svg id=\"mould\" hidden></svg><script>");
    html.raw(SCRIPT);
    html.raw("</script></body></html>\n");
    html.into_bytes()
}

fn down(why: &str, asked: &Asked) -> Bytes {
    let mut html = Html::default();
    if !asked.part {
        head(&mut html, asked);
    }
    html.raw("<section id=\"summary\"><h2>No answer from the gateway</h2><p class=\"bad\">");
    html.text(why);
    html.raw("</p></section>\n");
    let mut page = html.into_bytes().to_vec();
    if !asked.part {
        page.extend(tail());
    }
    page.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{look::Brief, metrics::samples};

    fn page(look: Look, query: &str) -> String {
        let pieces: Vec<Bytes> = pieces(Arc::new(look), Asked::read(query).unwrap()).collect();
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn what_the_gateway_says_is_escaped() {
        let mut look = samples::look(2, 2);
        let evil = "</script><img src=x onerror=\"alert('1')\">&";
        let mut brief: Brief = (*look.brief).clone();
        brief.status.warnings = vec![evil.into()];
        brief.status.ports[0].name = evil.into();
        brief.counters[2].advice = Some(evil.into());
        look.brief = Arc::new(brief);
        look.services[0].0.service.scheduler = evil.into();
        let page = page(look, "q=%3Cimg%20src=x%3E");
        assert!(
            !page.contains("<img")
                && page.contains("&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;")
        );
        assert!(down(evil, &Asked::default()).windows(4).all(|w| w != b"<img"));
    }

    #[test]
    fn it_is_one_file() {
        let page = page(samples::look(3, 2), "");
        for outside in ["http://", "https://", "src=", "@import", "url(", " style=", "onclick"] {
            assert!(!page.contains(outside), "{outside}");
        }
        let policy = policy().to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.matches("sha256-").count() == 2, "{policy}");
        assert!(page.ends_with("</html>\n"));
        for tag in ["section", "details", "table", "tr", "td", "p", "div", "summary"] {
            let count = |text: &str| page.matches(text).count();
            let open = count(&format!("<{tag}>")) + count(&format!("<{tag} "));
            assert_eq!(open, count(&format!("</{tag}>")), "{tag}");
        }
    }

    #[test]
    fn services_and_servers_are_filtered_and_limited() {
        let look = || samples::look(3000, 2);
        let count = |query: &str| page(look(), query).matches("<details").count();
        assert_eq!(count(""), services::MAX_SERVICES);
        assert_eq!(count("q=tcp/10.0.11.1:80"), 1);
        assert_eq!(count("q=172.16.0.1:8080"), services::MAX_SERVICES);
        assert_eq!(count("q=nothing"), 0);
        assert!(page(look(), "").contains("1000 of 3000"));
        assert!(page(look(), "part=body").starts_with("<section"));
        assert!(Asked::read("x=1").is_err() && Asked::read("q=%").is_err());
    }

    #[test]
    fn drops_stand_with_their_advice() {
        let page = page(samples::look(1, 1), "");
        assert!(page.contains("no-server") && page.contains("Add &lt;one&gt;."));
    }
}
