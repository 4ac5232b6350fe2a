//! `workloads`: what the stack's work costs, in instructions and in nanoseconds.
//!
//! Instructions are counted by callgrind and compared with a committed table: they are the same in every run.
//! Times are medians, each beside that of a peer in the same run. Tables go to stdout, progress to stderr.
#![forbid(unsafe_code)]

mod catalogue;
mod crowd;
mod exchange;
mod host;
mod instructions;
mod meter;
mod micro;
mod packet;
mod peers;
mod profile;
mod relay;
mod sessions;
mod smol;
mod steering;
mod times;
mod wire;
mod world;

use clap::{Parser, Subcommand};
use meter::Meter;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures single steps of the stack, the relay and whole sessions, in memory.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one workload and says how many operations it was.
    Run {
        /// Its name; there are those of the table.
        name: String,
    },
    /// Counts the instructions of each workload (valgrind) and compares them with the table.
    Instructions {
        /// The committed table.
        #[arg(long, value_name = "FILE", default_value = "benches/instructions.csv")]
        table: PathBuf,
        /// Write what was counted to the table.
        #[arg(long)]
        update: bool,
        /// Only workloads with this text in their name.
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
    },
    /// Says where a workload's instructions go, by function (valgrind, addr2line).
    Profile {
        /// Its name.
        name: String,
        /// Functions to print.
        #[arg(long, value_name = "COUNT", default_value_t = 20)]
        count: usize,
    },
    /// Times workloads and their peers in turn.
    Times {
        /// Runs of each; medians are printed.
        #[arg(long, value_name = "COUNT", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=999))]
        runs: u16,
        /// Leave out what needs hundreds of megabytes.
        #[arg(long)]
        quick: bool,
    },
    /// Opens many SOCKS5 sessions with two subflows each: memory, idle turns, a few of them active, an access cut.
    ///
    /// All in one process and in virtual time. A session takes about 5 KB. What it is doing is written to stderr.
    Sessions {
        /// How many; a million takes minutes.
        #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
        count: u32,
        /// Runs of each load; medians are printed.
        #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=999))]
        runs: u16,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { name } => run(&name),
        Command::Instructions { table, update, only } => {
            instructions::compare(&table, &only, update)
        }
        Command::Profile { name, count } => profile::print(&name, count),
        Command::Times { runs, quick } => {
            times::print(usize::from(runs), quick);
            Ok(())
        }
        Command::Sessions { count, runs } => sessions::print(count, runs),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("workloads: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str) -> Result<(), String> {
    let workload = catalogue::find(name).ok_or_else(|| format!("there is no workload {name}"))?;
    let mut meter = Meter::default();
    (workload.run)(&mut meter);
    println!("operations {}", meter.operations());
    println!("nanoseconds each {:.1}", meter.ns());
    for note in meter.notes() {
        println!("{note}");
    }
    Ok(())
}
