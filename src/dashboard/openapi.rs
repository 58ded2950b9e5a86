//! The description of the HTTP API, `/api/v1/openapi.json`.
//!
//! It is kept by hand in `openapi.json` beside this file: much of what the API answers is written
//! member by member, so types to derive it from would have to be kept by hand as well, and would
//! say less. Tests hold it against the routes and against real answers.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;

use super::http::body;
use super::hub::Hub;

/// Where the version of the gateway is put.
const VERSION: &str = "{version}";

static DOCUMENT: &str = include_str!("openapi.json");

/// The description, with this gateway's version.
pub(super) async fn document(State(hub): State<Arc<Hub>>) -> Response<Body> {
    let version = &hub.context().version;
    body("application/json", DOCUMENT.replacen(VERSION, version, 1).into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value as Json;

    use super::*;
    use crate::dashboard::assets::ASSETS;
    use crate::dashboard::http::routes;

    fn document() -> Json {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let document = document();
        let described: BTreeSet<_> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        // The names of the page's files are its build's; a folder's share a description.
        let page = ["/", "/{file}", "/assets/{file}"];
        let served: BTreeSet<_> = routes().iter().map(|route| route.path).chain(page).collect();
        assert_eq!(described, served);
        for asset in ASSETS {
            let (folder, _) = asset.path.rsplit_once('/').unwrap();
            assert!(["", "/assets"].contains(&folder), "{} is not described", asset.path);
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_part_is_used() {
        fn references<'a>(json: &'a Json, found: &mut BTreeSet<&'a str>) {
            match json {
                Json::Object(members) => {
                    found.extend(members.get("$ref").and_then(Json::as_str));
                    members.values().for_each(|value| references(value, found));
                }
                Json::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = document();
        let mut used = BTreeSet::new();
        references(&document, &mut used);
        for reference in &used {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for (kind, parts) in document["components"].as_object().unwrap() {
            // Those are named, not referred to.
            if kind == "securitySchemes" {
                let used = &document["security"].as_array().unwrap()[1..];
                assert_eq!(used.len(), parts.as_object().unwrap().len());
                assert!(used.iter().all(|one| {
                    parts.get(one.as_object().unwrap().keys().next().unwrap()).is_some()
                }));
                continue;
            }
            for name in parts.as_object().unwrap().keys() {
                let reference = format!("#/components/{kind}/{name}");
                // What the feed says is text to OpenAPI and described for its readers.
                let told = used.contains(reference.as_str()) || name == "FeedMessage";
                assert!(told, "{reference} is used nowhere");
            }
        }
    }

    #[test]
    fn the_version_is_put_in() {
        assert_eq!(document()["info"]["version"], VERSION);
        assert_eq!(DOCUMENT.matches(VERSION).count(), 1);
    }
}
