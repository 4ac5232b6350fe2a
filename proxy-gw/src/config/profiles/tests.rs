//! Profiles and plans: what is refused, and what good ones resolve to.

use super::*;
use crate::config::parse;

const TEXT: &str = include_str!("../../admin/terms/tests.toml");

/// Messages for the text with these settings, one per line.
fn problems(settings: &[&str]) -> String {
    let settings: Vec<String> = settings.iter().map(|one| (*one).to_owned()).collect();
    let problems = parse("gw.toml", TEXT, &settings).err().unwrap_or_default();
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let text = lines.join("\n");
    settings.iter().fold(text, |text, setting| text.replace(&format!("--set {setting}: "), ""))
}

#[test]
fn profiles_and_plans_resolve() {
    let config = parse("gw.toml", TEXT, &[]).unwrap();
    assert_eq!(config.profiles[0].mode, Mode::ActiveStandby);
    assert_eq!(config.profiles[0].access, [1, 0]);
    assert_eq!(config.profiles[1].weights, [80, 20]);
    assert_eq!((config.socks5.profile, config.convert.entry.profile), (Some(0), None));
    let plan = &config.users[1].plan;
    assert_eq!((plan.profile, plan.rate, plan.upload_rate), (Some(1), Some(50_000_000), None));
    assert_eq!(plan.access_rates, BTreeMap::from([(0, 5_000_000)]));
    assert_eq!(config.users[0].plan, Plan::default());
    assert_eq!(config.ports[1].path.total_rate, Some(1_000_000_000));
    let again = parse("again", &config.to_toml(), &[]).unwrap();
    assert_eq!(again, config);
}

#[test]
fn every_mode_has_its_scheduler() {
    let names = Mode::ALL.map(|mode| (mode.name(), mode.scheduler().name()));
    let expected = [
        ("active_standby", "active_backup"),
        ("smallest_delay", "default"),
        ("load_balancing", "weighted"),
        ("priority", "overflow"),
        ("redundant", "redundant"),
    ];
    assert_eq!(names, expected);
}

#[test]
fn profiles_are_checked() {
    for (setting, message) in [
        (
            "profile.0.name='a b'",
            "profile.0.name = \"a b\": expected a name of 1 to 64 letters, digits, '-', '_' or '.'",
        ),
        (
            "profile.0.name=shares",
            "profile.1.name = \"shares\": already used by profile.0.name; choose another",
        ),
        (
            "profile.0.mode=redundnat",
            "expected \"active_standby\" or \"smallest_delay\" or \"load_balancing\" or \"priority\" or \"redundant\"; did you mean \"redundant\"?",
        ),
        (
            "profile.0.mode=redundant",
            "profile.0.access: mode \"redundant\" has no use for it; remove it",
        ),
        (
            "profile.0.access=[]",
            "profile.0.access: missing; the ports in order for mode \"active_standby\", such as [\"wifi\", \"lte\"]",
        ),
        (
            "profile.0.access=['wifi','wlan']",
            "profile.0.access.1 = \"wlan\": expected \"lte\" or \"wifi\"",
        ),
        ("profile.0.access=['wifi','wifi']", "profile.0.access.1: each port at most once"),
        (
            "profile.0.weights=[1,2]",
            "profile.0.weights: mode \"active_standby\" has no use for it; remove it",
        ),
        (
            "profile.1.weights=[80]",
            "profile.1.weights: missing; one for each of access, such as [80, 20]",
        ),
        (
            "profile.1.weights=[80,0]",
            "profile.1.weights.1 = 0: expected a whole number from 1 to 65535",
        ),
        ("profile.1.share=1", "profile.1.share: unknown key"),
        ("socks5.profile=wifi", "socks5.profile = \"wifi\": expected \"wifi-first\" or \"shares\""),
        (
            "user.1.profile=share",
            "user.1.profile = \"share\": expected \"wifi-first\" or \"shares\"; did you mean \"shares\"?",
        ),
        (
            "user.1.rate=20MB",
            "user.1.rate = \"20MB\": expected \"unlimited\", or a rate from 8kbit to 1000Gbit",
        ),
        (
            "user.1.access_rates.dsl='1Mbit'",
            "user.1.access_rates.\"dsl\" = \"1Mbit\": expected \"lte\" or \"wifi\"",
        ),
        (
            "user.1.access_rates.lte=fast",
            "user.1.access_rates.\"lte\" = \"fast\": expected \"unlimited\"",
        ),
        ("port.0.total_rate=7", "port.0.total_rate = 7: expected \"unlimited\""),
    ] {
        let said = problems(&[setting]);
        assert!(said.contains(message), "{setting}: {said}");
        assert_eq!(said.lines().count(), 1, "{setting}: {said}");
    }
}
