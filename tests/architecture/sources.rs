//! A reader of Rust sources that knows comments, strings and paths, and no more.

use std::path::{Path, PathBuf};

/// A source file without its `#[cfg(test)]` part, comments and the insides of its string literals.
pub(crate) struct Source {
    /// Below `src`, with forward slashes.
    pub(crate) name: String,
    pub(crate) lines: usize,
    pub(crate) documented: bool,
    pub(crate) code: String,
}

/// Every file below `src` that is not only tests.
pub(crate) fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let all = files(&root, "rs");
    let tests: Vec<_> = all.iter().flat_map(|path| test_modules(path)).collect();
    let mut sources = Vec::new();
    for path in all {
        if tests.iter().any(|test| path.starts_with(test) || path == test.with_extension("rs")) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let own = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let documented = text.starts_with("//!");
        sources.push(Source { name, lines: own.lines().count(), documented, code: code(own) });
    }
    assert!(sources.len() > 20, "the sources are where this test looks");
    sources
}

/// The paths, without extension, of the modules that the file at `path` declares for tests only.
fn test_modules(path: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(path).unwrap();
    let is_root = ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| path.ends_with(name));
    let folder = if is_root { path.parent().unwrap().to_owned() } else { path.with_extension("") };
    let declared = text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
        let mut lines = rest.lines();
        let first = lines.next()?;
        if let Some(named) = first.strip_prefix("#[path = \"") {
            return Some(path.with_file_name(named.strip_suffix(".rs\"]")?));
        }
        let module = first.trim_start_matches("pub(crate) ").strip_prefix("mod ")?;
        Some(folder.join(module.strip_suffix(';')?))
    });
    declared.collect()
}

/// Every file below `folder` that ends in `.extension`.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// `text` without comments and without what stands in string and character literals.
pub(crate) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = hashes + 2;
            rest[start..].find(&end).map_or(rest.len(), |found| start + found + end.len())
        } else if first == '"' {
            1 + string_end(&rest[1..])
        } else if rest.starts_with("'\"'") {
            3
        } else {
            let length = first.len_utf8();
            code.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        };
        rest = &rest[skipped..];
    }
    code
}

/// How many `#` open a raw string here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// Where the string that has begun ends, its quote included.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The first segment after `crate::` of every path in `code`, grouped imports included.
pub(crate) fn crate_roots(code: &str) -> Vec<String> {
    let word = |text: &str| {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let mut roots = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            None => roots.push(word(rest)),
            Some(group) => {
                let mut depth = 1;
                let mut item = String::new();
                for char in group.chars() {
                    match char {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 || (depth == 1 && char == ',') {
                        roots.push(word(item.trim_start()));
                        item.clear();
                    } else {
                        item.push(char);
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    roots.retain(|root| !root.is_empty());
    roots
}

/// The room a file belongs to: `device/listener.rs` and `device.rs` are both `device`.
pub(crate) fn room(name: &str) -> &str {
    name.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Whether `code` names the crate `name` in a path.
pub(crate) fn names(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    }) || code.contains(&format!("use {name};"))
}
