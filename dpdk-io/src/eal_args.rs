//! The EAL's argument vector: the operator's words plus cores and memory, which are ours.
//!
//! Invariant: no word of the operator can contradict what is added here.

#[cfg(any(have_dpdk, test))]
use crate::config::EalConfig;
use crate::error::DriverError;

/// Words that set cores or memory, with what to use instead.
const OURS: [(&str, &str); 16] = [
    ("-l", "driver.cores"),
    ("-c", "driver.cores"),
    ("-s", "driver.cores"),
    ("-S", "driver.cores"),
    ("--lcores", "driver.cores"),
    ("--main-lcore", "driver.cores"),
    ("--master-lcore", "driver.cores"),
    ("-m", "driver.memory_mb"),
    ("--socket-mem", "driver.memory_mb"),
    ("--socket-limit", "driver.memory_mb"),
    ("--no-huge", "driver.hugepages"),
    ("--legacy-mem", "driver.hugepages"),
    ("-h", "nothing: the EAL would print its help and end the process"),
    ("--help", "nothing: the EAL would print its help and end the process"),
    ("--log-level=help", "nothing: the EAL would print its help and end the process"),
    ("--", "nothing: the program's own options are not the EAL's"),
];

/// Refuses words that are ours, and words C cannot hold.
pub(crate) fn check_words(words: &[String]) -> Result<(), DriverError> {
    let refuse = |word: &String, remedy: String| {
        Err(DriverError::Config { key: "driver.eal".to_owned(), value: word.clone(), remedy })
    };
    for word in words {
        if word.is_empty() || word.contains('\0') {
            return refuse(word, "remove the empty word".to_owned());
        }
        if let Some((_, instead)) = OURS.iter().find(|(ours, _)| is_option(word, ours)) {
            return refuse(word, format!("remove it and use {instead}"));
        }
    }
    Ok(())
}

/// Whether `word` is `option`, with or without a value attached. `getopt_long` takes the beginning of a long one for
/// it, and short ones without a value in front of others: of these there is `-v`.
fn is_option(word: &str, option: &str) -> bool {
    if let (Some(ours), Some(given)) = (option.strip_prefix("--"), word.strip_prefix("--"))
        && let Some(name) = given.split('=').next().filter(|name| !name.is_empty())
        && !ours.contains('=')
        && ours.starts_with(name)
    {
        return true;
    }
    let word = match word.strip_prefix("-v").map(|rest| rest.trim_start_matches('v')) {
        Some(rest) if !rest.is_empty() => format!("-{rest}"),
        _ => word.to_owned(),
    };
    match word.strip_prefix(option) {
        Some("") => true,
        Some(rest) => rest.starts_with('=') || !option.starts_with("--"),
        None => false,
    }
}

#[cfg(any(have_dpdk, test))]
/// Names given with `--vdev` (or `--vdev=`), without their arguments.
pub(crate) fn vdev_names(words: &[String]) -> Vec<String> {
    let mut names = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = if word == "--vdev" {
            words.next().map(String::as_str)
        } else {
            word.strip_prefix("--vdev=")
        };
        if let Some(name) = value.and_then(|value| value.split(',').next()) {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(any(have_dpdk, test))]
/// The whole vector. `huge`: memory comes from hugepages; `mounted`: a hugetlbfs is mounted.
pub(crate) fn build(config: &EalConfig, huge: bool, mounted: bool) -> Vec<String> {
    let given = |option: &str| config.words.iter().any(|word| is_option(word, option));
    let mut words = vec!["plait".to_owned()];
    for word in &config.words {
        if word == "--in-memory" && !huge {
            // DPDK 22.11 refuses it together with --no-huge.
            log::warn!("driver.eal: --in-memory dropped, it cannot be combined with --no-huge");
            continue;
        }
        words.push(word.clone());
    }
    // No files shared with, or locked against, another process; and none in a hugetlbfs, which would keep the pages
    // of a process that has ended until the EAL starts again.
    let alone = if huge { "--in-memory" } else { "--no-shconf" };
    let keeps_files = huge && mounted && given("--huge-unlink");
    if !given(alone) && !keeps_files {
        words.push(alone.to_owned());
    }
    if !huge {
        words.push("--no-huge".to_owned());
    }
    if !given("--iova-mode") {
        words.push("--iova-mode=va".to_owned());
    }
    let main_cpu = config.cores.first().copied().unwrap_or_default();
    words.extend([format!("--lcores=0@{main_cpu}"), "-m".to_owned(), config.memory_mb.to_string()]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(words: &[&str]) -> EalConfig {
        EalConfig {
            words: words.iter().map(|&word| word.to_owned()).collect(),
            cores: vec![1],
            memory_mb: 256,
            ..EalConfig::default()
        }
    }

    #[test]
    fn our_words_are_refused_in_every_spelling() {
        for word in [
            "-h",
            "--help",
            "--log-level=help",
            "-l",
            "-l0-1",
            "--lcores=0@1",
            "-m512",
            "--no-huge",
            "--",
            "-c1",
            "",
            "--lcore=0-3",
            "--hel",
            "--no-hug",
            "--socket-m=64",
            "-vh",
            "-vvm64",
        ] {
            assert!(check_words(&[word.to_owned()]).is_err(), "{word}");
        }
        for word in
            ["--in-memory", "--no-pci", "--log-level=3", "--vdev=net_null0", "--lcoresX", "-v"]
        {
            assert!(check_words(&[word.to_owned()]).is_ok(), "{word}");
        }
    }

    #[test]
    fn ordinary_pages_drop_in_memory() {
        for words in [&["--in-memory", "--no-pci"][..], &["--no-pci"]] {
            let built = build(&config(words), false, true).join(" ");
            assert_eq!(
                built,
                "plait --no-pci --no-shconf --no-huge --iova-mode=va --lcores=0@1 -m 256"
            );
        }
    }

    /// Files in a hugetlbfs keep the pages of a process that has ended, and lock out another one.
    #[test]
    fn hugepages_are_of_no_file() {
        let built = |words: &[&str], mounted| build(&config(words), true, mounted).join(" ");
        for mounted in [false, true] {
            assert_eq!(
                built(&["--iova-mode=pa"], mounted),
                "plait --iova-mode=pa --in-memory --lcores=0@1 -m 256"
            );
            assert_eq!(
                built(&["--in-memory"], mounted),
                "plait --in-memory --iova-mode=va --lcores=0@1 -m 256"
            );
        }
        // What is to become of them is said.
        assert_eq!(
            built(&["--huge-unlink=never"], true),
            "plait --huge-unlink=never --iova-mode=va --lcores=0@1 -m 256"
        );
    }

    #[test]
    fn vdevs_are_found_in_both_spellings() {
        let words = config(&["--vdev", "net_null0,size=64", "--no-pci", "--vdev=net_ring1"]).words;
        assert_eq!(vdev_names(&words), ["net_null0", "net_ring1"]);
        assert!(vdev_names(&config(&["--vdev"]).words).is_empty());
    }
}
