//! What a measurement was taken on.

use std::process::Command;

/// Commit, machine and command, in one line.
pub(crate) fn describe(runs: u64) -> String {
    let commit = output("git", &["describe", "--always", "--dirty"]);
    let kernel = output("uname", &["-sr"]);
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<_> = cpus.lines().filter(|line| line.starts_with("model name")).collect();
    let model = models.first().and_then(|line| line.split_once(": ")).map_or("?", |(_, name)| name);
    let command: Vec<_> =
        ["relays".to_owned()].into_iter().chain(std::env::args().skip(1)).collect();
    format!(
        "`{}` at commit {commit}, medians of {runs} runs, {} CPUs ({model}), {kernel}.",
        command.join(" "),
        models.len()
    )
}

/// What a program says, or a question mark.
fn output(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.ok().filter(|said| !said.is_empty()).unwrap_or("?".to_owned())
}
