//! `/v1/openapi.json`: what there is, made of the tables by which requests are answered.

use serde_json::{Map, Value, json};

use super::{
    documents::{DOCUMENTS, Document},
    route::{ROUTES, Route},
};

/// Everything that is answered, as OpenAPI 3.1.
pub(super) fn description() -> Value {
    let mut paths: Map<String, Value> =
        ROUTES.iter().map(|route| (route.path.to_owned(), json!({ "get": of_route(route) }))).collect();
    let documents = DOCUMENTS.iter();
    paths.extend(documents.map(|d| (format!("/v1/{}", d.name), json!({ "get": of_document(d) }))));
    if let Some(rules) = paths.get_mut("/v1/rules") {
        rules["put"] = put_rules();
    }
    let info = json!({
        "title": "weirctl serve",
        "version": weir_api::documents::VERSION.to_string(),
        "license": { "name": "Apache-2.0 OR MIT" },
    });
    let token = json!({ "type": "http", "scheme": "bearer", "description": "--token-file" });
    json!({
        "openapi": "3.1.0",
        "info": info,
        "paths": paths,
        "components": { "securitySchemes": { "token": token } },
    })
}

fn answer(what: &str, kind: &str) -> Value {
    let schema = if kind == "application/json" { "object" } else { "string" };
    json!({ "description": what, "content": { kind: { "schema": { "type": schema } } } })
}

fn parameter(name: &str, place: &str) -> Value {
    json!({ "name": name, "in": place, "schema": { "type": "string" } })
}

fn of_route(route: &Route) -> Value {
    let parameters: Vec<Value> = route.parameters.iter().map(|name| parameter(name, "query")).collect();
    json!({
        "operationId": route.id,
        "summary": route.what,
        "parameters": parameters,
        "responses": {
            "200": answer(route.what, route.kind),
            "503": answer("The gateway doesn't answer, isn't ready, or there is too much to do: why", route.kind),
        },
    })
}

fn of_document(document: &Document) -> Value {
    let parameters: Vec<Value> = document.parameters.iter().map(|name| parameter(name, "query")).collect();
    let json_ = |what| answer(what, "application/json");
    json!({
        "operationId": document.name,
        "summary": format!("What `weirctl {} --json` prints", document.words.join(" ")),
        "parameters": parameters,
        "responses": {
            "200": json_("The document: docs/json.md has its keys"),
            "400": json_("A parameter is wrong"),
            "404": json_("The gateway has no such service"),
            "503": json_("The gateway doesn't answer, or the document is too large"),
        },
    })
}

fn put_rules() -> Value {
    let if_match =
        json!({ "name": "If-Match", "in": "header", "required": true, "schema": { "type": "string" } });
    let json_ = |what| answer(what, "application/json");
    json!({
        "operationId": "replace-rules",
        "summary": "Makes the configuration what the body says, as `weirctl apply` does; only with --allow-write",
        "parameters": [if_match],
        "security": [{ "token": [] }],
        "requestBody": { "required": true, "content": { "text/plain": { "schema": { "type": "string" } } } },
        "responses": {
            "200": json_("What was changed, as `weirctl apply --json` says; ETag is the new generation"),
            "400": json_("A header or the text is wrong"),
            "401": json_("The token is wrong"),
            "405": json_("It isn't allowed here"),
            "412": json_("The configuration has another generation: nothing was changed"),
            "413": json_("The text is too long"),
            "422": json_("The gateway refuses: nothing was changed"),
            "428": json_("If-Match is missing"),
            "503": json_("The gateway doesn't answer, or somebody else is changing the rules"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_described_once() {
        let description = description();
        let paths = description["paths"].as_object().unwrap();
        assert_eq!(paths.len(), ROUTES.len() + DOCUMENTS.len());
        let mut ids: Vec<&str> = Vec::new();
        for (path, methods) in paths {
            for (method, operation) in methods.as_object().unwrap() {
                assert!(operation["responses"]["200"]["content"].is_object(), "{method} {path}");
                ids.push(operation["operationId"].as_str().unwrap());
            }
        }
        ids.sort_unstable();
        let all = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), all);
        assert!(paths["/v1/rules"]["put"].is_object());
        let parameters = paths["/v1/sessions"]["get"]["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|parameter| parameter["name"] == "client"));
    }
}
