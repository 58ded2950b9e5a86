//! The log as the API and the feed show it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{Response, StatusCode};
use log::{Level, LevelFilter};
use serde::{Deserialize, Serialize, Serializer};

use super::http::{Refusal, json};
use super::hub::Hub;
use super::render::{self, Filter};
use crate::host::tail::{ENTRIES, Entry};

/// Entries that one tick of the feed brings at most.
pub(super) const AT_ONCE: usize = 50;
/// Entries in an answer that does not say how many.
const USUAL: usize = 200;

/// What `level` may be for entries that are kept.
pub(super) const LEVELS: [(&str, LevelFilter); 5] = [
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    level: Option<String>,
    device: Option<String>,
    limit: Option<usize>,
}

/// The newest entries that fit, oldest first.
pub(super) async fn list(
    State(hub): State<Arc<Hub>>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response<Body>, Refusal> {
    #[derive(Serialize)]
    struct Document {
        entries: Vec<Json<Arc<Entry>>>,
    }
    let bad = |error: String| Refusal::new(StatusCode::BAD_REQUEST, error);
    let Query(wanted) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let level = wanted.level.as_deref().map_or(Ok(LevelFilter::Info), |level| {
        let found = LEVELS.iter().find(|(name, _)| *name == level).map(|(_, level)| *level);
        found.ok_or_else(|| bad("level is one of error, warn, info, debug, trace".into()))
    })?;
    let limit = wanted.limit.unwrap_or(USUAL);
    if limit > ENTRIES {
        return Err(bad(format!("limit is 0 to {ENTRIES}: more entries are not kept")));
    }
    let fits = |entry: &Arc<Entry>| {
        entry.level <= level
            && wanted.device.as_deref().is_none_or(|device| entry.device() == Some(device))
    };
    let all = hub.context().log.since(0);
    let mut entries: Vec<_> = all.into_iter().rev().filter(fits).take(limit).map(Json).collect();
    entries.reverse();
    Ok(json(&Document { entries }))
}

/// The feed's messages for `entries`, each with the entry's level and the device it is about. Of
/// more than [`AT_ONCE`] the most serious and, among those, the newest are told; a last message
/// says how many are left out. `filter` says which are wanted at all.
pub(super) fn messages(
    entries: Vec<Arc<Entry>>,
    filter: &Filter,
) -> impl Iterator<Item = (Level, Option<String>, String)> {
    let mut entries: Vec<_> =
        entries.into_iter().filter(|entry| entry.is_news() && wants(filter, entry)).collect();
    let mut rest = None;
    if entries.len() > AT_ONCE {
        entries.sort_by_key(|entry| (entry.level, std::cmp::Reverse(entry.number)));
        let left_out = entries.split_off(AT_ONCE);
        entries.sort_by_key(|entry| entry.number);
        rest = left_out_message(&left_out);
    }
    let told = entries.into_iter().map(|entry| {
        let message = render::text(&Message { kind: "log", entry: Json(&entry) });
        (entry.level, entry.device().map(ToOwned::to_owned), message)
    });
    told.chain(rest)
}

/// Says how many are left out, as serious as the most serious of them.
fn left_out_message(left_out: &[Arc<Entry>]) -> Option<(Level, Option<String>, String)> {
    let newest = left_out.iter().max_by_key(|entry| entry.number)?;
    let level = left_out.iter().map(|entry| entry.level).min()?;
    let count = left_out.len().to_string();
    let text =
        format!("{count} entries of the log are left out here; /api/v1/log has the last ones");
    let mut entry =
        Entry::new(newest.time, level, module_path!().into(), &text, &[("left_out", count)]);
    entry.number = newest.number;
    Some((level, None, render::text(&Message { kind: "log", entry: Json(&entry) })))
}

fn wants(filter: &Filter, entry: &Entry) -> bool {
    filter.wants_log(entry.level, entry.device())
}

/// An entry as JSON.
struct Json<E>(E);

#[derive(Serialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    entry: Json<&'a Entry>,
}

impl<E: std::borrow::Borrow<Entry>> Serialize for Json<E> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            number: u64,
            time: f64,
            level: &'a str,
            target: &'a str,
            message: &'a str,
            fields: BTreeMap<&'a str, &'a str>,
        }
        let entry = self.0.borrow();
        let level = match entry.level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        let Entry { number, time, target, message, fields, .. } = entry;
        let fields = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Shown { number: *number, time: *time, level, target, message, fields }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, level: Level, device: Option<&str>) -> Arc<Entry> {
        let fields: Vec<_> = device.iter().map(|device| ("device", (*device).to_owned())).collect();
        let mut entry = Entry::new(1.5, level, "m".into(), "text", &fields);
        entry.number = number;
        Arc::new(entry)
    }

    fn told(entries: Vec<Arc<Entry>>, query: &[(&str, &str)]) -> Vec<serde_json::Value> {
        let query = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let filter = Filter::new(query).unwrap();
        messages(entries, &filter).map(|(_, _, m)| serde_json::from_str(&m).unwrap()).collect()
    }

    #[test]
    fn a_message_of_the_feed_has_all_of_an_entry() {
        let told = told(vec![entry(7, Level::Warn, Some("kiln-3"))], &[]);
        let wanted = serde_json::json!({
            "type": "log", "number": 7, "time": 1.5, "level": "warn", "target": "m",
            "message": "text", "fields": { "device": "kiln-3" },
        });
        assert_eq!(told, [wanted]);
    }

    #[test]
    fn viewers_get_what_their_query_says() {
        let all = || {
            vec![
                entry(1, Level::Info, Some("a")),
                entry(2, Level::Error, None),
                entry(3, Level::Debug, Some("b")),
                entry(4, Level::Warn, Some("b")),
            ]
        };
        let numbers = |query: &[(&str, &str)]| {
            told(all(), query).iter().map(|m| m["number"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&[]), [1, 2, 4]);
        assert_eq!(numbers(&[("log", "debug")]), [1, 2, 3, 4]);
        assert_eq!(numbers(&[("log", "warn")]), [2, 4]);
        assert_eq!(numbers(&[("log", "error")]), [2]);
        assert!(numbers(&[("log", "off")]).is_empty());
        assert_eq!(numbers(&[("device", "b"), ("log", "debug")]), [3, 4]);
        assert_eq!(numbers(&[("device", "a"), ("name", "x")]), [1]);
        for bad in ["", "loud", "INFO"] {
            let error = Filter::new(vec![("log".into(), bad.into())]).unwrap_err();
            assert!(error.contains("off, error, warn, info, debug"), "{error}");
        }
    }

    #[test]
    fn of_a_flood_the_most_serious_are_told_and_the_rest_is_counted() {
        let mut flood: Vec<_> = (1..=200).map(|n| entry(n, Level::Info, None)).collect();
        flood[3] = entry(4, Level::Error, None);
        flood[99] = entry(100, Level::Warn, None);
        let told = told(flood, &[]);
        assert_eq!(told.len(), AT_ONCE + 1);
        let numbers: Vec<_> = told.iter().map(|m| m["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers[..3], [4, 100, 153]);
        assert!(numbers[..AT_ONCE].is_sorted() && numbers[AT_ONCE - 1] == 200);
        let last = told.last().unwrap();
        assert_eq!(last["fields"]["left_out"], "150");
        assert_eq!((&last["level"], numbers[AT_ONCE]), (&"info".into(), 152));
        assert!(last["message"].as_str().unwrap().contains("/api/v1/log"));
    }
}
