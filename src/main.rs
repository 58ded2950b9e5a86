//! Arguments in, exit code out; everything else is in the library.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    tidegate::cli::main()
}
