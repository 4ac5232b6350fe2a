//! Instruction counts under callgrind, and the committed table they are held against.
//!
//! The counts are the same in every run: workloads are seeded, the environment is empty (it decides where the
//! stack lies), and valgrind shows every machine with AVX2 the same processor, so libc and the hashes choose the same
//! routines. They do depend on the compiler, on libc and on valgrind, whose versions head the table.

use crate::catalogue::{COUNTED, Workload};
use crate::meter::SYMBOL;
use std::path::Path;
use std::process::Command;

/// A count may be this much above the table.
const TOLERANCE: f64 = 0.02;
/// This much where a compiler, a libc or a valgrind counts that is not the table's: their changes are not ours.
const OTHER_TOOLS: f64 = 0.15;

/// The table: what it was made with, and a count per workload.
#[derive(Debug, Default, PartialEq)]
struct Table {
    tools: String,
    counts: Vec<(String, f64)>,
}

impl Table {
    fn parse(text: &str) -> Result<Self, String> {
        let mut table = Self::default();
        for line in text.lines() {
            if let Some(tools) = line.strip_prefix("# with ") {
                tools.clone_into(&mut table.tools);
            } else if !line.starts_with('#') {
                let count = line
                    .split_once(',')
                    .and_then(|(name, count)| Some((name.to_owned(), count.parse().ok()?)));
                table.counts.push(count.ok_or_else(|| format!("not a count: {line}"))?);
            }
        }
        Ok(table)
    }

    fn count(&self, name: &str) -> Option<f64> {
        self.counts.iter().find(|(of, _)| of == name).map(|(_, count)| *count)
    }
}

impl core::fmt::Display for Table {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        writeln!(
            f,
            "# Instructions of one operation: make bench-instructions UPDATE=1 writes this."
        )?;
        writeln!(f, "# with {}", self.tools)?;
        self.counts.iter().try_for_each(|(name, count)| writeln!(f, "{name},{count:.1}"))
    }
}

/// Counts every workload with `only` in its name. Without `update` it fails when one has become dearer.
pub(crate) fn compare(path: &Path, only: &str, update: bool) -> Result<(), String> {
    let explain = |error| format!("{}: {error}", path.display());
    let old = match std::fs::read_to_string(path) {
        Ok(text) => Table::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?,
        Err(_) if update => Table::default(),
        Err(error) => return Err(explain(error)),
    };
    let mut new = Table { tools: tools()?, counts: Vec::new() };
    let tolerance = if old.tools == new.tools { TOLERANCE } else { OTHER_TOOLS };
    if update && !only.is_empty() && old.tools != new.tools {
        return Err(format!("the rest of the table was made with {}: update all of it", old.tools));
    }
    if old.tools != new.tools && !update {
        eprintln!("the table was made with {}, this is {}", old.tools, new.tools);
    }
    let (mut dearer, mut cheaper) = (Vec::new(), Vec::new());
    println!("| workload | one operation | table | now | change |\n|---|---|---|---|---|");
    for workload in COUNTED.iter().filter(|workload| workload.name.contains(only)) {
        let name = workload.name;
        let count = count(workload)?;
        let before = old.count(name);
        let mut change = "new".to_owned();
        if let Some(before) = before {
            change = format!("{:+.2} %", (count / before - 1.0) * 100.0);
        }
        let was = before.map_or_else(String::new, |before| format!("{before:.1}"));
        println!("| {name} | {} | {was} | {count:.1} | {change} |", workload.operation);
        if before.is_none_or(|before| count > before * (1.0 + tolerance)) {
            dearer.push(name);
        } else if before.is_some_and(|before| count < before * (1.0 - tolerance)) {
            cheaper.push(name);
        }
        new.counts.push((name.to_owned(), count));
    }
    if update {
        for (name, count) in &old.counts {
            if new.count(name).is_none() && !name.contains(only) {
                new.counts.push((name.clone(), *count));
            }
        }
        new.counts.sort_by_key(|(name, _)| COUNTED.iter().position(|of| of.name == name));
        return std::fs::write(path, new.to_string()).map_err(explain);
    }
    if new.counts.is_empty() {
        return Err(format!("no workload has {only:?} in its name"));
    }
    let gone = gone(&old, &new, only);
    if !gone.is_empty() {
        return Err(format!("in the table, and no workload: {}", gone.join(", ")));
    }
    let per_cent = tolerance * 100.0;
    if !cheaper.is_empty() {
        let names = cheaper.join(", ");
        eprintln!("below the table by more than {per_cent} %, update it to keep that: {names}");
    }
    if dearer.is_empty() {
        return Ok(());
    }
    Err(format!("above the table by more than {per_cent} %: {}", dearer.join(", ")))
}

/// What the table has and nobody counts any more, of the names with `only`: what is not compared passes everything.
fn gone<'a>(old: &'a Table, new: &Table, only: &str) -> Vec<&'a str> {
    let names = old.counts.iter().map(|(name, _)| name.as_str());
    names.filter(|name| name.contains(only) && new.count(name).is_none()).collect()
}

/// Instructions of one operation.
fn count(workload: &Workload) -> Result<f64, String> {
    let out = std::env::temp_dir().join(format!("workloads-{}.callgrind", std::process::id()));
    let (total, operations) = callgrind(workload.name, &out, &[])?;
    let _ = std::fs::remove_file(&out);
    Ok(total / operations)
}

/// Runs a workload under callgrind, whose profile goes to `out`; answers instructions and operations.
pub(crate) fn callgrind(name: &str, out: &Path, more: &[&str]) -> Result<(f64, f64), String> {
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let run = Command::new("valgrind")
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .args(["--tool=callgrind", "--quiet", &format!("--toggle-collect={SYMBOL}")])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .args(more)
        .arg(program)
        .args(["run", name])
        .output()
        .map_err(|error| format!("valgrind: {error}; is it installed?"))?;
    let (stdout, stderr) = (text(&run.stdout), text(&run.stderr));
    if !run.status.success() {
        return Err(format!("{name} under valgrind: {}\n{stdout}{stderr}", run.status));
    }
    let operations = number(&stdout, "operations ").ok_or("a workload counts its operations")?;
    let profile = std::fs::read_to_string(out).map_err(|error| format!("the profile: {error}"))?;
    let total = number(&profile, "totals: ").filter(|total| *total > 0.0);
    Ok((total.ok_or_else(|| format!("{name}: nothing was counted in {SYMBOL}"))?, operations))
}

/// The number behind `label` at the start of a line.
fn number(text: &str, label: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(label))?.trim().parse().ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the counts depend on beside the code.
fn tools() -> Result<String, String> {
    let version = |program: &str, arg: &str| -> Result<String, String> {
        let run = Command::new(program).arg(arg).output();
        let run = run.map_err(|error| format!("{program}: {error}"))?;
        Ok(text(&run.stdout).lines().next().unwrap_or_default().trim().to_owned())
    };
    let rustc = version("rustc", "--version")?;
    let libc = version("getconf", "GNU_LIBC_VERSION")?;
    Ok(format!("{rustc}, {libc}, {}", version("valgrind", "--version")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_as_it_was_written() {
        let counts = vec![("checksum".to_owned(), 212.5), ("token".to_owned(), 1234.0)];
        let table = Table { tools: "rustc 1.95.0, glibc 2.36".to_owned(), counts };
        assert_eq!(Table::parse(&table.to_string()), Ok(table));
        assert_eq!(Table::parse("checksum;1"), Err("not a count: checksum;1".to_owned()));
    }

    #[test]
    fn what_the_table_has_is_compared() {
        let table = |names: &[&str]| Table {
            tools: String::new(),
            counts: names.iter().map(|name| ((*name).to_owned(), 1.0)).collect(),
        };
        let (old, new) = (table(&["emit", "parse", "token"]), table(&["emit"]));
        assert_eq!(gone(&old, &new, ""), ["parse", "token"]);
        assert_eq!(gone(&old, &new, "tok"), ["token"]);
        assert_eq!(gone(&old, &old, ""), [""; 0]);
    }

    #[test]
    fn numbers_follow_their_labels() {
        assert_eq!(number("events: Ir\ntotals: 123\n", "totals: "), Some(123.0));
        assert_eq!(number("totals of all: 1", "totals: "), None);
    }
}
