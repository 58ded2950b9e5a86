//! A fault of the program in a thread of the real binary: the clock that the standard library asks
//! fails once in that thread, which makes it panic.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Gateway, Setup, free_port};

/// Fails `clock_gettime` once in the thread NAME when there is a file NAME in `$FAIL_CLOCK`.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    const char *folder = getenv("FAIL_CLOCK");
    char name[17] = {0}, path[4096];
    if (clock == CLOCK_MONOTONIC && folder && prctl(PR_GET_NAME, name) == 0) {
        snprintf(path, sizeof path, "%s/%s", folder, name);
        if (unlink(path) == 0) { errno = EINVAL; return -1; }
    }
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return real(clock, time);
}
"#;

/// Built by the compiler that links every Rust program here.
fn library(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, LIBRARY).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl");
    assert!(compiler.status().unwrap().success());
    library
}

fn prepared(setup: Setup) -> Gateway {
    let mut gateway = setup.prepare();
    let folder = gateway.dir().join("fail");
    std::fs::create_dir(&folder).unwrap();
    gateway.preload = Some(library(gateway.dir()));
    gateway.env("FAIL_CLOCK", folder);
    gateway
}

#[tokio::test]
async fn a_thread_that_fails_ends_the_process_which_starts_again_with_everything() {
    let url = format!("http://127.0.0.1:{}/write", free_port());
    for (thread, named) in [
        ("spool", "the spool has failed"),
        ("dashboard", "the dashboard has failed"),
        ("push", "the thread of the pushes has failed"),
    ] {
        let mut gateway = prepared(
            Setup::new(free_port()).table("push", &format!("url = \"{url}\"\ninterval = \"50ms\"")),
        );
        gateway.start().await;
        let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
        // The broker is away, so these are on the disk when they are acknowledged.
        for seq in 1..=3 {
            device.reading(seq, 1.0).await;
            device.acked(seq).await;
        }
        std::fs::write(gateway.dir().join("fail").join(thread), "").unwrap();
        let status = gateway.ended().await;
        assert_eq!(status.code(), Some(1), "{thread}");
        let log = gateway.log();
        assert!(log.contains("has panicked") && log.contains("thread=\""), "{thread}: {log}");
        assert!(log.contains(named), "{thread}: {log}");
        gateway.start().await;
        assert_eq!(gateway.metric("tidegate_spool_batches").await, 3, "{thread}");
        assert_eq!(gateway.metric("tidegate_panics_total").await, 0, "{thread}");
    }
}
