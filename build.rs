//! Builds the dashboard's page (`dashboard/`, with npm) and puts its files, compressed, into the
//! binary.
//!
//! - `TIDEGATE_DASHBOARD_DIR=FOLDER` takes a page that was built before (`npm run build` in
//!   `dashboard/` leaves one in `dashboard/dist`), so that cross builds and packages need no Node.
//! - Where the page cannot be built, there is a warning, and the gateway says in the page's place
//!   why it has none; everything else works. With `TIDEGATE_DASHBOARD_REQUIRED=1` that is an error.
//!
//! The sources are copied into cargo's own folder first: nothing is written beside them, and builds
//! into different target folders do not get into each other's way.

#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

/// What of `dashboard/` the page is made from.
const SOURCES: [&str; 7] = [
    "index.html",
    "package.json",
    "package-lock.json",
    "public",
    "src",
    "tsconfig.json",
    "vite.config.ts",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=TIDEGATE_DASHBOARD_DIR");
    println!("cargo:rerun-if-env-changed=TIDEGATE_DASHBOARD_REQUIRED");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
    match page(&out) {
        Ok(dist) => write_table(&out, &collect(&dist)?, None)?,
        Err(why) => {
            if env::var_os("TIDEGATE_DASHBOARD_REQUIRED").is_some_and(|value| value == "1") {
                return Err(format!("the dashboard's page cannot be built: {why}").into());
            }
            println!("cargo:warning=built without the dashboard's page: {why}");
            write_table(&out, &[], Some(&why))?;
        }
    }
    Ok(())
}

/// The folder with the finished page, or why there is none.
fn page(out: &Path) -> Result<PathBuf, String> {
    if let Some(folder) = env::var_os("TIDEGATE_DASHBOARD_DIR").map(PathBuf::from) {
        println!("cargo:rerun-if-changed={}", folder.display());
        let index = folder.join("index.html");
        return if index.is_file() {
            Ok(folder)
        } else {
            Err(format!("TIDEGATE_DASHBOARD_DIR: there is no {}", index.display()))
        };
    }
    for source in SOURCES {
        println!("cargo:rerun-if-changed=dashboard/{source}");
    }
    let work = out.join("dashboard");
    let prepared = prepare(Path::new("dashboard"), &work);
    prepared.map_err(|error| format!("{} cannot be prepared: {error}", work.display()))?;
    // As written in the lock file, and without the packages' own install scripts.
    npm(&work, &["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"])?;
    npm(&work, &["run", "--silent", "build", "--", "--logLevel", "error"])?;
    Ok(work.join("dist"))
}

/// Copies the sources, leaving installed packages of an earlier build where they are.
fn prepare(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for source in SOURCES {
        let (from, to) = (from.join(source), to.join(source));
        if to.is_dir() {
            fs::remove_dir_all(&to)?;
        }
        copy(&from, &to)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(|_| ());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn npm(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    const HELP: &str = "install Node 18 or newer with npm, or set TIDEGATE_DASHBOARD_DIR to a page \
                        that was built elsewhere (see docs/dashboard.md)";
    let ran = Command::new("npm").args(arguments).current_dir(folder).output();
    let ran = ran.map_err(|error| format!("npm cannot be run ({error}): {HELP}"))?;
    if ran.status.success() {
        return Ok(());
    }
    let told = [ran.stdout, ran.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    let told: Vec<_> = told.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = told.get(told.len().saturating_sub(6)..).unwrap_or_default().join(" | ");
    Err(format!("npm {} failed with {}: {last}: {HELP}", arguments.join(" "), ran.status))
}

/// A file of the page, by the path it is served at.
struct File {
    path: String,
    bytes: Vec<u8>,
}

fn collect(dist: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    let mut folders = vec![(dist.to_path_buf(), String::new())];
    while let Some((folder, path)) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = format!("{path}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                folders.push((entry.path(), path));
            } else {
                files.push(File { path, bytes: fs::read(entry.path())? });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Writes `page.rs`: the table that `src/dashboard/assets.rs` includes.
fn write_table(out: &Path, files: &[File], missing: Option<&str>) -> io::Result<()> {
    let mut table = String::from("&[\n");
    for (number, file) in files.iter().enumerate() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&file.bytes)?;
        let name = out.join(format!("page-{number}.gz"));
        fs::write(&name, packed.finish()?)?;
        // What the build named after its content never changes.
        let (path, fixed) = match file.path.as_str() {
            "/index.html" => ("/", false),
            path => (path, path.starts_with("/assets/")),
        };
        let (kind, name) = (content_type(path), name.display().to_string());
        let line = writeln!(
            table,
            "    Asset {{ path: {path:?}, content_type: {kind:?}, fixed: {fixed}, \
             gzip: include_bytes!({name:?}) }},",
        );
        line.map_err(io::Error::other)?;
    }
    table.push_str("]\n");
    fs::write(out.join("page.rs"), table)?;
    fs::write(out.join("page-missing.rs"), format!("{missing:?}\n"))
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("/") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json" | "webmanifest") => "application/json",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}
