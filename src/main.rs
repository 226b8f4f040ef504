//! `vswitch`: a poll-mode virtual switch beside any VMM. This program only reads the command line;
//! what it does is in `control` and below.
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod demo;
mod lab;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
