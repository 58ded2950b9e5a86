//! The rules of `[[push]]`.

use super::Check;
use crate::config::url::{WriteUrl, write_url};

impl Check<'_> {
    /// What the keys of the pushes mean together.
    pub(super) fn pushes(&mut self) {
        let mut names: Vec<String> = Vec::new();
        for index in 0..self.values.count("push") {
            let key = |name: &str| format!("push[{index}].{name}");
            if !self.values.mentions(&key("url")) {
                let example = "url = \"http://127.0.0.1:8428/write\", say";
                self.fault(&key("url"), "is missing: where are the readings to go?", example);
            }
            let url = self.write_url(index);
            let token = self.values.mentions(&key("token_file"));
            if let Some(url) = &url {
                if self.values.mentions(&key("ca")) && !url.tls {
                    self.fault(&key("ca"), "has no effect without TLS", "with a https:// url");
                }
                if token && !url.tls && !url.is_loopback() {
                    self.warnings.push(format!(
                        "push.url is {}: the secret of push.token_file and the readings cross the \
                         network in the clear",
                        url.text()
                    ));
                }
            }
            if self.values.mentions(&key("auth")) && !token {
                self.fault(
                    &key("auth"),
                    "has no effect without push.token_file",
                    "with token_file",
                );
            }
            let Some(name) = self.values.text(&key("name")).or(url.map(|url| url.host)) else {
                continue;
            };
            if names.contains(&name) {
                let at = if self.values.mentions(&key("name")) { key("name") } else { key("url") };
                let problem = format!("two pushes are called {name:?}");
                self.fault(&at, problem, "a push.name of its own for each (default: the host)");
            }
            names.push(name);
        }
    }

    /// Whether the files that the pushes name hold what they should.
    pub(super) fn push_files(&mut self) {
        for index in 0..self.values.count("push") {
            let key = |name: &str| format!("push[{index}].{name}");
            if let Some(ca) = self.values.text(&key("ca")) {
                self.certificates(&key("ca"), &self.places.path(&ca));
            }
            let Some(file) = self.values.text(&key("token_file")) else { continue };
            let path = self.places.path(&file);
            let Some(secret) = self.secret(&key("token_file"), &path) else { continue };
            let basic = self.values.text(&key("auth")).is_some_and(|auth| auth == "basic");
            if basic && !secret.contains(':') {
                let problem = format!("{} holds no colon", path.display());
                self.fault(&key("token_file"), problem, "USER:PASSWORD, as auth is \"basic\"");
            } else if !basic && !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
                let problem = format!("{} holds more than a token", path.display());
                self.fault(&key("token_file"), problem, "one line without blanks: the token alone");
            }
        }
    }

    fn write_url(&self, index: usize) -> Option<WriteUrl> {
        write_url(&self.values.text(&format!("push[{index}].url"))?).ok()
    }
}
