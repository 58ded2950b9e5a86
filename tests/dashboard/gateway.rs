//! `/api/v1/gateway`.

use tidegate::dashboard::Fleet;

use super::support::*;

#[test]
fn the_machine_the_process_and_the_limits_are_told() {
    let gateway = Gateway::start();
    gateway.up("kiln-3");
    assert!(gateway.budget.try_take(1000));
    gateway.metrics.device_connections.set(7);
    let told = gateway.get("/api/v1/gateway").json();
    assert_eq!((told["gateway"].as_str(), told["version"].as_str()), (Some("gw-1"), Some("1.2.3")));
    assert_eq!(told["configuration_file"], "/etc/t/tidegate.toml");
    let (time, started) = (told["time"].as_f64().unwrap(), told["started"].as_f64().unwrap());
    assert!(started <= time && time - started < 3600.0);
    assert!(told["machine"]["cpus"].as_u64().unwrap() >= 1);
    assert!(told["machine"]["memory"]["available_bytes"].as_u64().unwrap() > 0);
    // There is no /etc/t/data.
    assert!(told["machine"]["disk"].is_null());
    assert!(told["process"]["resident_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(told["process"]["open_files"].as_u64().unwrap() > 2);

    let limit = |name: &str| {
        let limits = told["limits"].as_array().unwrap();
        let limit = limits.iter().find(|limit| limit["name"] == name).unwrap();
        (limit["used"].as_u64().unwrap(), limit["limit"].as_u64().unwrap())
    };
    assert_eq!(limit("device connections"), (7, 10_000));
    assert_eq!(limit("unsettled readings"), (1000, 1 << 20));
    assert_eq!(limit("spool"), (0, 512 << 20));
    assert_eq!(limit("commands in the ledger"), (0, 1000));
    assert_eq!(limit("devices shown").0, 1);
    assert_eq!(limit("viewers"), (0, 1000));
}

#[test]
fn every_setting_that_a_limit_names_is_in_the_configuration() {
    let gateway = Gateway::start();
    let told = gateway.get("/api/v1/gateway").json();
    for limit in told["limits"].as_array().unwrap() {
        let Some(setting) = limit["setting"].as_str().filter(|s| !s.contains(' ')) else {
            continue;
        };
        let pointer = format!("/configuration/{}", setting.replace('.', "/"));
        assert!(told.pointer(&pointer).is_some(), "{setting}");
    }
}

#[test]
fn an_answer_serves_for_a_second() {
    let gateway = Gateway::start();
    let told = || gateway.get("/api/v1/gateway").body;
    // Unless the machine takes a second for two questions.
    let again = (0..30).any(|_| told() == told());
    assert!(again);
}

#[test]
fn the_configuration_names_files_of_secrets_and_tells_none() {
    let mut context = context(Fleet::new());
    context.settings = settings(
        "[devices]\nmax_frame = \"32 KiB\"\n[mqtt]\nusername = \"gw\"\npassword_file = \"password\"\n",
    );
    let gateway = Gateway::of(context);
    let told = gateway.get("/api/v1/gateway").json();
    let configuration = &told["configuration"];
    assert_eq!(configuration["devices"]["max_frame"], "32KiB");
    assert_eq!(configuration["devices"]["rate"]["burst"], 400.0);
    assert_eq!(configuration["mqtt"]["password_file"], "/etc/t/password");
    assert_eq!(configuration["mqtt"]["url"], "mqtt://127.0.0.1:1883");
    assert!(configuration["mqtt"].get("password").is_none());
}
