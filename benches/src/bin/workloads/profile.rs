//! Where the instructions of a workload go: inclusive counts by function, functions that the compiler inlined
//! among them.
//!
//! Callgrind knows the functions that are left after inlining, which here are a handful of pages each. It also
//! knows every instruction's address, and `addr2line` the chain of inlined functions at it: each of them, and the
//! function around them, is given the instruction, or what the call that it is costs.

use crate::catalogue;
use crate::instructions::callgrind;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// One line of the profile.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    function: String,
    /// In this program, not in a library.
    ours: bool,
    address: u64,
    instructions: u64,
    /// It is a call, and this what came of it.
    call: bool,
}

/// The costs in callgrind's uncompressed format.
fn parse(profile: &str, program: &str) -> Vec<Cost> {
    let (mut function, mut ours, mut call) = (String::new(), false, false);
    let mut costs = Vec::new();
    for line in profile.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            ours = object == program;
        } else if let Some(name) = line.strip_prefix("fn=") {
            name.clone_into(&mut function);
        } else if line.starts_with("calls=") {
            call = true;
        } else if let Some(position) = line.strip_prefix("0x") {
            let mut words = position.split(' ');
            let address = words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
            let instructions = words.nth(1).and_then(|word| word.parse().ok());
            if let (Some(address), Some(instructions)) = (address, instructions) {
                costs.push(Cost { function: function.clone(), ours, address, instructions, call });
            }
            call = false;
        }
    }
    costs
}

/// The functions at each address, the innermost first.
fn chains(program: &str, addresses: &BTreeSet<u64>) -> Result<BTreeMap<u64, Vec<String>>, String> {
    let explain = |error| format!("addr2line: {error}");
    let mut child = Command::new("addr2line")
        .args(["--addresses", "--functions", "--inlines", "--demangle", "--exe", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(explain)?;
    let mut stdin = child.stdin.take().ok_or("addr2line takes no input")?;
    let list: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let feed = std::thread::spawn(move || stdin.write_all(list.as_bytes()));
    let output = child.wait_with_output().map_err(explain)?;
    let _ = feed.join();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut chains: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut chain = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(address) = line.strip_prefix("0x") {
            chain = u64::from_str_radix(address, 16).ok().map(|at| chains.entry(at).or_default());
        } else {
            let place = lines.next().unwrap_or_default();
            chain.iter_mut().for_each(|chain| chain.push(placed(short(line), place)));
        }
    }
    for chain in chains.values_mut() {
        // What has no name of its own is called by that of the function around it all.
        if chain.len() > 1 && chain.first() == chain.last() {
            chain.remove(0);
        }
    }
    Ok(chains)
}

/// A function that was inlined has no path, only its own name: the file it is in is added.
fn placed(name: String, place: &str) -> String {
    if name.contains("::") {
        return name;
    }
    let file = place.split(':').next().unwrap_or_default();
    let file = file.rsplit_once("/src/").map_or(file, |(_, file)| file);
    format!("{name} ({file})")
}

/// A function's name without hash, generic arguments and the crates everybody knows.
fn short(name: &str) -> String {
    let name = match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 => path,
        _ => name,
    };
    let mut depth = 0_u32;
    let mut out = String::new();
    let mut last = ' ';
    for letter in name.chars() {
        match letter {
            // `<A as B>::c` at the beginning of a segment names a type; behind a name come arguments.
            '<' if depth > 0 || last.is_alphanumeric() => depth += 1,
            '>' if depth > 0 && last != '-' => depth -= 1,
            _ if depth == 0 => out.push(letter),
            _ => {}
        }
        last = letter;
    }
    out.replace("mptcp_core::", "").replace("workloads::", "")
}

#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    inclusive: u64,
    own: u64,
}

/// Instructions by function.
fn sums(costs: &[Cost], chains: &BTreeMap<u64, Vec<String>>) -> BTreeMap<String, Sum> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for cost in costs {
        let around = [short(&cost.function)];
        let inlined = chains.get(&cost.address).filter(|chain| cost.ours && !chain.is_empty());
        let chain = inlined.map_or(&around[..], Vec::as_slice);
        for function in chain.iter().collect::<BTreeSet<_>>() {
            sums.entry(function.clone()).or_default().inclusive += cost.instructions;
        }
        if let Some(innermost) = chain.first().filter(|_| !cost.call) {
            sums.entry(innermost.clone()).or_default().own += cost.instructions;
        }
    }
    sums
}

/// Prints the `count` costliest functions of a workload, inclusive of what they call, then the `count` that cost
/// most themselves.
pub(crate) fn print(name: &str, count: usize) -> Result<(), String> {
    let workload = catalogue::find(name).ok_or_else(|| format!("there is no workload {name}"))?;
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let program = program.to_string_lossy().into_owned();
    let out = std::env::temp_dir().join(format!("workloads-{}.profile", std::process::id()));
    let more = ["--dump-instr=yes", "--compress-pos=no", "--compress-strings=no"];
    let (total, operations) = callgrind(name, &out, &more)?;
    let profile = std::fs::read_to_string(&out).map_err(|error| format!("the profile: {error}"))?;
    let _ = std::fs::remove_file(&out);
    let costs = parse(&profile, &program);
    let addresses = costs.iter().filter(|cost| cost.ours).map(|cost| cost.address).collect();
    let mut sums: Vec<_> = sums(&costs, &chains(&program, &addresses)?).into_iter().collect();
    // What stands around the measured part has all of it, and tells nothing.
    sums.retain(|(_, sum)| sum.inclusive < total as u64);
    let each = |instructions: u64| instructions as f64 / operations;
    println!("{name}: {:.1} instructions: {}\n", total / operations, workload.operation);
    println!("| function | inclusive | share | own |\n|---|---|---|---|");
    let orders: [fn(&Sum) -> u64; 2] = [|sum| sum.inclusive, |sum| sum.own];
    for (at, order) in orders.into_iter().enumerate() {
        if at > 0 {
            println!("\n| function | inclusive | share | own |\n|---|---|---|---|");
        }
        sums.sort_by_key(|(_, sum)| core::cmp::Reverse(order(sum)));
        for (function, sum) in sums.iter().take(count) {
            let share = order(sum) as f64 / total * 100.0;
            let (inclusive, own) = (each(sum.inclusive), each(sum.own));
            println!("| `{function}` | {inclusive:.0} | {share:.1} % | {own:.0} |");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_arguments() {
        let short_of = [
            ("mptcp_core::stack::Stack<B>::handle_burst", "stack::Stack::handle_burst"),
            ("alloc::vec::Vec<T,A>::push::h0123456789abcdef", "alloc::vec::Vec::push"),
            ("<A<B> as C<D>>::drop", "<A as C>::drop"),
            ("f<fn() -> u8>::{{closure}}", "f::{{closure}}"),
            ("memcpy", "memcpy"),
        ];
        for (name, expected) in short_of {
            assert_eq!(short(name), expected);
        }
        let place = "/work/mptcp-core/src/stack/egress.rs:17 (discriminator 3)";
        assert_eq!(placed("send_on".to_owned(), place), "send_on (stack/egress.rs)");
        assert_eq!(placed("a::b".to_owned(), place), "a::b");
    }

    #[test]
    fn a_call_belongs_to_whoever_made_it() {
        let profile = "ob=/bin/w\nfn=outer\n0x10 1 5\ncfn=inner\ncalls=1 0x20 7\n0x14 2 30\n\n\
                       fn=inner\n0x20 7 30\n\nob=/lib/c\nfn=memcpy\n0x99 1 4\n";
        let costs = parse(profile, "/bin/w");
        let chains = [(0x10, vec!["deep".to_owned(), "outer".to_owned()])];
        let sums = sums(&costs, &chains.into_iter().collect());
        let sum = |name: &str| sums.get(name).map(|sum| (sum.inclusive, sum.own));
        assert_eq!(sum("outer"), Some((35, 0)));
        assert_eq!(sum("deep"), Some((5, 5)));
        assert_eq!(sum("inner"), Some((30, 30)));
        assert_eq!(sum("memcpy"), Some((4, 4)));
    }
}
