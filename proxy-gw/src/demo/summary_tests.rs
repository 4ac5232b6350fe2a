//! The verdict of the demo over made-up measurements: each way to fail fails, and nothing else.

use super::*;

fn transfer(run: Run, mbit_per_s: u64, lte_share: u64) -> Transfer {
    let len = mbit_per_s * 125_000;
    let digest = Some(Digest::of_content(1, 10));
    let lte = len * lte_share / 100;
    Transfer {
        run,
        wanted: len,
        len,
        elapsed: Duration::from_secs(1),
        paths: [LinkBytes { rx: lte, tx: 0 }, LinkBytes { rx: len - lte, tx: 0 }],
        longest_gap: Duration::from_millis(40),
        longest_gap_at: Duration::ZERO,
        sent: digest,
        received: digest,
        error: None,
    }
}

/// Moves of the phone's counters, by nstat's names.
fn moved(pairs: &[(&str, i64)]) -> Mib {
    Mib::from_pairs(pairs)
}

fn good() -> Report {
    Report {
        transfers: vec![
            transfer(Run::Alone(Access::Lte), 56, 100),
            transfer(Run::Alone(Access::Wifi), 38, 0),
            transfer(Run::Download, 92, 60),
            transfer(Run::Upload, 88, 60),
            transfer(Run::Cut, 80, 70),
            transfer(Run::PlainTcp, 56, 100),
        ],
        wifi_back_after: Some(Duration::from_millis(700)),
        wifi_during_cut: Some(0),
        took: Some(Duration::from_secs(95)),
        sessions: Some(Sessions {
            wanted: 1000,
            tally: Tally { open: 1000, done: 1000, lost: 0, bytes: 46_000_000 },
            losses: Vec::new(),
            elapsed: Duration::from_secs(5),
            paths: [LinkBytes { rx: 30_000_000, tx: 0 }, LinkBytes { rx: 20_000_000, tx: 0 }],
            is_mptcp: true,
        }),
        gateway_mib: Some(moved(&[("IpInReceives", 5)])),
        phone_mib: Some(moved(&[
            ("MPTcpExtMPJoinSynAckRx", 1003),
            ("MPTcpExtMPJoinSynTx", 1003),
            ("TcpInSegs", 90_000),
        ])),
        kernel_addresses: Some(Vec::new()),
        drained: Some(Ok(())),
        left_behind: Vec::new(),
        failures: Vec::new(),
    }
}

/// The failing checks' texts.
fn failing(report: &Report) -> Vec<String> {
    let checks = report.checks();
    let failing = checks.iter().filter(|check| check.verdict != Verdict::Pass);
    failing.map(|check| check.text.clone()).collect()
}

#[test]
fn a_good_run_passes_whole() {
    assert_eq!(failing(&good()), [""; 0]);
    assert!(good().passed(false) && good().passed(true) && good().is_only_incomplete());
    let text = good().render(false);
    assert!(text.contains("0.979 of the sum"), "{text}");
    assert!(!text.contains("FAIL"), "{text}");
}

#[test]
fn each_broken_promise_fails_alone() {
    type Breakage = fn(&mut Report);
    let breakages: [(&str, Breakage); 18] = [
        ("not what was sent", |r| r.transfers[5].received = Some(Digest::of_content(2, 1))),
        ("did not report", |r| r.transfers[3].sent = None),
        ("bytes arrived", |r| r.transfers[4].wanted += 1),
        ("timed out", |r| r.transfers[0].error = Some("timed out".to_owned())),
        ("carried nothing: wifi in (c)", |r| r.transfers[4] = transfer(Run::Cut, 80, 100)),
        ("left its path: wifi", |r| r.transfers[1] = transfer(Run::Alone(Access::Wifi), 38, 9)),
        ("1 of 1000", |r| {
            if let Some(sessions) = &mut r.sessions {
                sessions.tally.done = 999;
                sessions.tally.lost = 1;
            }
        }),
        ("TcpInSegs +3", |r| r.gateway_mib = Some(moved(&[("TcpInSegs", 3)]))),
        ("10.1.0.1", |r| r.kernel_addresses = Some(vec!["10.1.0.1".to_owned()])),
        ("MPJoinSynAckRx +0", |r| r.phone_mib = Some(Mib::default())),
        ("MPRstRx +1", |r| {
            let counters = [("MPTcpExtMPRstRx", 1), ("MPTcpExtMPJoinSynAckRx", 1)];
            r.phone_mib = Some(moved(&counters));
        }),
        ("wifi in (e) 3.2 %", |r| {
            if let Some(sessions) = &mut r.sessions {
                sessions.paths[1] = LinkBytes { rx: 500_000, tx: 500_000 };
            }
        }),
        ("did not carry again", |r| r.wifi_back_after = None),
        ("carried 60 bytes while", |r| r.wifi_during_cut = Some(60)),
        ("was not cut", |r| r.wifi_during_cut = None),
        ("left behind: plait", |r| r.left_behind.push("plait".to_owned())),
        ("exit 4", |r| r.drained = Some(Err("exit 4".to_owned()))),
        ("no curl", |r| r.failures.push("no curl".to_owned())),
    ];
    for (text, breakage) in breakages {
        let mut report = good();
        breakage(&mut report);
        let failing = failing(&report);
        assert!(failing.len() == 1 && failing[0].contains(text), "{text}: {failing:?}");
        assert!(!report.passed(false) && !report.passed(true), "{text}");
        assert!(report.render(true).contains("FAIL  "), "{text}");
    }
}

#[test]
fn only_the_gates_can_be_excused() {
    let mut slow = good();
    slow.transfers[2] = transfer(Run::Download, 89, 60);
    assert_eq!(
        failing(&slow),
        ["goodput of (a) is 0.947 of the sum of the paths alone (gate: at least 0.95)"]
    );
    let mut pausing = good();
    pausing.transfers[4].longest_gap = Duration::from_millis(1001);
    assert_eq!(failing(&pausing), ["longest gap in (c) is 1001 ms (gate: at most 1000 ms)"]);
    let mut long = good();
    long.took = Some(Duration::from_secs(121));
    assert_eq!(failing(&long), ["the demo took 121 s (gate: at most 120 s)"]);
    for report in [slow, pausing, long] {
        assert!(!report.passed(false) && report.passed(true));
        assert!(report.render(false).contains("FAIL  ") && report.render(true).contains("miss  "));
    }
}

#[test]
fn what_did_not_run_is_no_pass() {
    let nothing = Report::default();
    let not_run = nothing.checks().iter().filter(|one| one.verdict == Verdict::NotRun).count();
    assert_eq!(not_run, nothing.checks().len() - 1, "only nothing left behind is a pass");
    assert!(!nothing.passed(true) && nothing.is_only_incomplete());
    let mut without_curl = good();
    without_curl.transfers.clear();
    assert!(!without_curl.passed(true) && without_curl.is_only_incomplete());
}
