//! The configuration as it is in force, for people: every key with its value, set or by default.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::Settings;
use super::places::credential;
use super::raw::{Value, Values};
use super::schema::{KEYS, Key, Kind, Otherwise, REPEATED};
use super::text::without_credentials;
use super::units::{format_size, format_time};

impl Settings {
    /// Every key that has a value, in tables as in the file and spelt as the documentation spells
    /// them; keys without one are left out. Paths are those that are used, relative ones from the
    /// configuration file's folder on. There is no secret in it: passwords and tokens stand in
    /// files of their own, and credentials in a URL are left out.
    #[must_use]
    pub fn in_force(&self) -> Map<String, Json> {
        let mut root = Map::new();
        for key in KEYS.iter().filter(|key| table_of(key.path).is_none()) {
            let value = match key.path {
                // Found out at the start where the file does not say.
                "gateway.id" => Some(self.gateway.id.as_str().into()),
                "gateway.data_dir" => Some(shown(&self.gateway.data_dir)),
                path => self.value(key, path),
            };
            if let Some(value) = value {
                insert(&mut root, key.path, value);
            }
        }
        for table in REPEATED.iter().map(|repeated| repeated.path) {
            let tables = (0..self.values.count(table)).map(|index| self.repeated(table, index));
            let tables: Vec<_> = tables.collect();
            if !tables.is_empty() {
                insert(&mut root, table, tables.into());
            }
        }
        root
    }

    fn repeated(&self, table: &str, index: usize) -> Json {
        let mut members = Map::new();
        for key in KEYS.iter().filter(|key| table_of(key.path) == Some(table)) {
            let name = key.path.get(table.len() + 1..).unwrap_or_default();
            if let Some(value) = self.value(key, &format!("{table}[{index}].{name}")) {
                members.insert(name.to_owned(), value);
            }
        }
        Json::Object(members)
    }

    fn value(&self, key: &Key, path: &str) -> Option<Json> {
        self.values.get(path).map(|value| match (key.default, value) {
            // Spelt as the documentation does: "60s", not "1m".
            (Otherwise::Toml(default), value @ (Value::Size(_) | Value::Time(_)))
                if Values::default().get(path).as_ref() == Some(&value) =>
            {
                default.trim_matches('"').into()
            }
            (_, value) => self.spelt(&key.kind, value),
        })
    }

    fn spelt(&self, kind: &Kind, value: Value) -> Json {
        match value {
            Value::Flag(on) => on.into(),
            Value::Integer(n) => n.into(),
            Value::Number(n) => n.into(),
            Value::Size(n) => format_size(n).into(),
            Value::Time(time) => format_time(time).into(),
            Value::Text(text) if credential(&text).is_some() => text.into(),
            Value::Text(text) if matches!(kind, Kind::Path | Kind::File) => {
                let folder = self.file.parent().unwrap_or(Path::new(""));
                shown(&folder.join(text))
            }
            Value::Text(text) => without_credentials(&text).into_owned().into(),
            Value::Texts(texts) => {
                texts.iter().map(|text| without_credentials(text).into_owned()).collect()
            }
            Value::Address(address) => address.to_string().into(),
        }
    }
}

fn shown(path: &Path) -> Json {
    path.display().to_string().into()
}

/// The repeated table that a key stands in.
fn table_of(path: &str) -> Option<&'static str> {
    let table = path.split_once('.')?.0;
    REPEATED.iter().map(|repeated| repeated.path).find(|repeated| *repeated == table)
}

fn insert(table: &mut Map<String, Json>, path: &str, value: Json) {
    let Some((name, rest)) = path.split_once('.') else {
        table.insert(path.to_owned(), value);
        return;
    };
    let inner = table.entry(name).or_insert_with(|| Json::Object(Map::new()));
    if let Json::Object(inner) = inner {
        insert(inner, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Surroundings;

    fn settings(text: &str) -> Settings {
        let host = Surroundings { host_name: Some("host-1".into()), ..Surroundings::default() };
        Settings::parse(text, Path::new("/etc/t/tidegate.toml"), &host).unwrap()
    }

    #[test]
    fn every_key_with_a_default_is_there_as_the_documentation_spells_it() {
        let shown = Json::Object(settings("").in_force());
        for key in KEYS.iter().filter(|key| table_of(key.path).is_none()) {
            let value = shown.pointer(&format!("/{}", key.path.replace('.', "/")));
            match (key.default, &key.kind) {
                (Otherwise::Toml(text), kind) if !matches!(kind, Kind::Path | Kind::File) => {
                    let value = value.unwrap_or_else(|| panic!("{} is missing", key.path));
                    let default: Json = match text.parse::<f64>() {
                        // 200 is a number and is shown as one.
                        Ok(number) if matches!(kind, Kind::Number(..)) => number.into(),
                        _ => serde_json::from_str(text).unwrap(),
                    };
                    assert_eq!(*value, default, "{}", key.path);
                }
                (Otherwise::Absent, _) => assert_eq!(value, None, "{}", key.path),
                _ => assert!(value.is_some_and(Json::is_string), "{}", key.path),
            }
        }
        assert_eq!(shown["gateway"]["id"], "host-1");
        assert_eq!(shown["devices"]["registry"], "/etc/t/devices.toml");
    }

    #[test]
    fn every_table_of_a_repeated_one_is_there_with_its_defaults_and_no_secret() {
        let shown = Json::Object(
            settings(
                "[[push]]\nurl = \"http://127.0.0.1:8428/write\"\n\
                 [[push]]\nname = \"two\"\nurl = \"http://h:1/w\"\ntoken_file = \"t\"\n",
            )
            .in_force(),
        );
        assert_eq!(shown["push"][0]["url"], "http://127.0.0.1:8428/write");
        assert_eq!(shown["push"][0]["max_buffer"], "8MiB");
        assert_eq!(shown["push"][1]["name"], "two");
        assert_eq!(shown["push"][1]["token_file"], "/etc/t/t");
    }

    #[test]
    fn what_is_shown_is_a_configuration_that_means_the_same() {
        let text = r#"
            [gateway]
            id = "gw-7"
            data_dir = "spool"
            [devices]
            rate = { batches_per_second = 0.5, burst = 2 }
            max_frame = 4096
            heartbeat_interval = "1500 ms"
            allowed_origins = ["https://a.example"]
            tls = { cert = "c.pem", key = "k.pem" }
            [mqtt]
            username = "u"
            password_file = "password"
            [log]
            level = "warn"
        "#;
        let first = settings(text);
        let again = settings(&toml::to_string(&first.in_force()).unwrap());
        assert_eq!(first.in_force(), again.in_force());
        assert_eq!(format!("{:?}", first.devices), format!("{:?}", again.devices));
        assert_eq!(format!("{:?}", first.mqtt), format!("{:?}", again.mqtt));
        assert_eq!(first.in_force()["devices"]["max_frame"], "4KiB");
        assert_eq!(first.in_force()["devices"]["heartbeat_interval"], "1500ms");
        assert_eq!(first.in_force()["mqtt"]["password_file"], "/etc/t/password");
    }

    #[test]
    fn a_reload_shows_in_it_and_is_taken_over_once() {
        let mut settings = settings("[log]\nlevel = \"info\"\ntarget = \"stderr\"\n");
        let newer = self::settings("[log]\nlevel = \"debug\"\ntarget = \"journal\"\n");
        assert_eq!(settings.changes(&newer).now, ["log.level"]);
        settings.take_over(&newer);
        assert_eq!(settings.in_force()["log"]["level"], "debug");
        assert_eq!(settings.in_force()["log"]["target"], "stderr");
        assert!(settings.changes(&newer).now.is_empty());
        settings.take_over(&self::settings(""));
        assert_eq!(settings.in_force()["log"]["level"], "info");
    }
}
