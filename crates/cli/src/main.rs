//! `cordon`: run a neural network on a machine its owner does not trust.
//!
//! One file per command under `commands/`. Exit status: 0 done, 1 failed (an error with its next step on stderr, one line of JSON with `--json`),
//! 2 the command line itself is wrong.
#![forbid(unsafe_code)]

mod backend;
mod commands;
mod failure;
mod files;
mod images;
mod inputs;
mod keys;
mod model;
mod package;
mod results;
mod ui;

use clap::{Parser, Subcommand};
use failure::{Failure, Outcome};
use std::process::ExitCode;
use ui::Ui;

/// Run a neural network on a machine its owner does not trust.
#[derive(Parser)]
#[command(name = "cordon", version, about, max_term_width = 120, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print results as JSON, one value per line, and nothing else on stdout
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Show a model's nodes, shapes, parameters, and the numbered table of cuts
    Inspect(commands::inspect::Args),
    /// Decide which nodes run in the secure world, and say what that protects
    Plan(commands::plan::Args),
    /// Make keys
    #[command(subcommand)]
    Keygen(commands::keygen::Command),
    /// Set up the device that runs packages
    #[command(subcommand)]
    Device(commands::device::Command),
    /// Encrypt and sign a planned model for its recipients, then check the result against the plain model
    Seal(commands::seal::Args),
    /// Add a recipient to a package by a signed side file
    Grant(commands::grant::Args),
    /// Check a package's signature, digests and manifest without opening its secrets
    Verify(commands::verify::Args),
    /// Write a package's public parts to a folder
    Unpack(commands::unpack::Args),
    /// Run a package on files
    Run(commands::run::Args),
    /// Measure a model plain, all-secure and as planned
    Bench(commands::bench::Args),
    /// Check what this machine offers
    Doctor(commands::doctor::Args),
    /// Walk the whole pipeline on a bundled model and images
    Demo(commands::demo::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && wants_json() => {
            eprintln!("{}", Failure::usage(&error).json());
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    match dispatch(cli.command, Ui::new(cli.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if cli.json {
                eprintln!("{}", failure.json());
            } else {
                eprintln!("{failure}");
            }
            ExitCode::from(1)
        }
    }
}

/// Whether a command line that could not be read asks for JSON.
fn wants_json() -> bool {
    std::env::args_os().skip(1).take_while(|argument| argument != "--").any(|argument| argument == "--json")
}

fn dispatch(command: Command, ui: Ui) -> Outcome {
    match command {
        Command::Inspect(args) => commands::inspect::run(&args, ui),
        Command::Plan(args) => commands::plan::run(&args, ui),
        Command::Keygen(command) => commands::keygen::run(&command, ui),
        Command::Device(command) => commands::device::run(&command, ui),
        Command::Seal(args) => commands::seal::run(&args, ui),
        Command::Grant(args) => commands::grant::run(&args, ui),
        Command::Verify(args) => commands::verify::run(&args, ui),
        Command::Unpack(args) => commands::unpack::run(&args, ui),
        Command::Run(args) => commands::run::run(&args, ui),
        Command::Bench(args) => commands::bench::run(&args, ui),
        Command::Doctor(args) => commands::doctor::run(&args, ui),
        Command::Demo(args) => commands::demo::run(&args, ui),
    }
}
