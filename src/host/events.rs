//! The events that an operator may want to be told of, wherever they are logged: an event of `tracing`
//! with one of these names (`tracing::error!(name: "readings-lost", ...)`) goes to the journal with the
//! `MESSAGE_ID` here, to which `systemd/tidegate.catalog` has the explanation (`journalctl -x`).

/// Names and identifiers, by name. An identifier never changes and is never used again for another
/// event: alerts are set on it.
pub(super) const EVENTS: [(&str, &str); 28] = [
    ("accept-failing", "c7be5ba5dda6408e913764e1a22b9c24"),
    ("certificate-refused", "99af32ca38804c3a9b072c83e319dfb5"),
    ("clock-set", "300cb794988d4e808cafb176c3a55439"),
    ("configuration-refused", "43febf92199c4eb8ba0eb118446db0ce"),
    ("ledger-damaged", "e4b0af140c5348ada38832d042b6cc01"),
    ("ledger-stalled", "c47fbf7b6edd41b5a2258157f4f8be9d"),
    ("ledger-writable", "a0cecf29ac1b42b0a58af5f955dbd7e2"),
    ("lines-dropped", "c858976bbf5b4b6f8d60b2331f4c413f"),
    ("lines-withheld", "acd0d2ec148a496e9f6c54632b5c06f2"),
    ("panic", "991f5ba3a89d42f78d4d4da38f002249"),
    ("part-failed", "8edfd081b7ad424e8c6a0a6801db3fb2"),
    ("part-stuck", "e28ba951d620469faad6186bf0b6faff"),
    ("publish-refused", "c3fe9df213204d588cf53fbda50d1248"),
    ("readings-lost", "e470273a85b8405dab4d9b7ca0e13936"),
    ("registry-refused", "4cc089889e71401aa105530632304249"),
    ("reloaded", "af65f43520964ec19ce59edcda0e0b7b"),
    ("spool-damaged", "8701fff0249a4444b041e04abfee6a0b"),
    ("spool-deleted", "34ad18611ede447cb553d332997805fe"),
    ("spool-full", "60e8f796e9664032963897371f985dec"),
    ("spool-stalled", "43221ca7549e46c69483e52d69418c13"),
    ("spool-writable", "a89567170f4149fbb63f7379ee779796"),
    ("started", "bb04e46c1a974c998988653a06d6e12a"),
    ("stopped", "8bf418845db74bf1b2c741a70a3ba7ec"),
    ("stopped-unsettled", "c06fd15dc28e4c8cb04051c3b8399299"),
    ("uplink-lost", "e1ed56d05cfb49168e65c620cca0c1fb"),
    ("uplink-unreachable", "534aea9372e34de4ac1bd943c62e3b8c"),
    ("uplink-up", "fb8cbb4631bf45d683431577e78777fa"),
    ("users-refused", "986a22ca92ad4332a5a25cc25e918c8e"),
];

/// The identifier of the event of that name; none for events that are not in the table.
pub(super) fn message_id(name: &str) -> Option<&'static str> {
    let found = EVENTS.binary_search_by_key(&name, |(known, _)| known).ok()?;
    EVENTS.get(found).map(|(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    const CATALOG: &str = include_str!("../../systemd/tidegate.catalog");
    const PAGE: &str = include_str!("../../docs/service.md");

    #[test]
    fn the_table_is_sorted_and_every_name_and_identifier_is_there_once() {
        assert!(EVENTS.is_sorted_by(|(a, _), (b, _)| a < b));
        let ids: BTreeSet<_> = EVENTS.iter().map(|(_, id)| id).collect();
        assert_eq!(ids.len(), EVENTS.len());
        let fits =
            |id: &str| id.len() == 32 && id.bytes().all(|b| b"0123456789abcdef".contains(&b));
        assert!(ids.into_iter().all(|id| fits(id)));
        assert_eq!(message_id("readings-lost"), Some(EVENTS[13].1));
        assert_eq!(message_id("event src/app.rs:1"), None);
    }

    #[test]
    fn every_event_is_explained_in_the_catalog_and_in_the_documentation_and_nothing_else_is() {
        let explained = |line: &&str| line.starts_with("-- ") && line.len() > 32;
        let catalog: BTreeSet<_> =
            CATALOG.lines().filter(explained).map(|line| line[3..].trim()).collect();
        assert_eq!(catalog, EVENTS.iter().map(|(_, id)| *id).collect());
        for (name, id) in EVENTS {
            assert!(PAGE.contains(&format!("| `{name}` | `{id}` |")), "{name} in docs/service.md");
        }
    }

    #[test]
    fn every_name_that_is_logged_is_in_the_table_and_every_one_there_is_logged() {
        fn read(folder: &Path, found: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    read(&path, found);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let calls = text.split("tracing::").filter_map(|call| call.split_once("!("));
                    let names = calls.filter_map(|(_, call)| {
                        call.trim_start().strip_prefix("name: \"")?.split_once('"')
                    });
                    found.extend(names.map(|(name, _)| name.to_owned()));
                }
            }
        }
        let mut logged = BTreeSet::new();
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut logged);
        // The one that the journal's own thread makes.
        logged.insert("lines-dropped".to_owned());
        let known: BTreeSet<_> = EVENTS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(logged, known);
    }
}
