//! What is measured: the links, the receiver's buffer and the load.

use core::time::Duration;

/// An emulated link, the same both ways but for loss, which takes packets towards the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) mbit: u32,
    /// One way.
    pub(crate) delay_ms: u32,
    /// Lost towards the client, in thousandths.
    pub(crate) loss_permille: u32,
    /// Tail-drop limit.
    pub(crate) queue_kib: u32,
}

impl Link {
    const fn new(mbit: u32, delay_ms: u32) -> Self {
        Self { mbit, delay_ms, loss_permille: 0, queue_kib: 256 }
    }

    /// Its keys as `netsim-live` takes them.
    pub(crate) fn words(self) -> String {
        let Self { mbit, delay_ms, loss_permille, queue_kib } = self;
        let loss = f64::from(loss_permille) / 10.0;
        format!("rate={mbit}mbit delay={delay_ms}ms queue={queue_kib}KiB ba.loss={loss}%")
    }
}

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// Downloads for so long.
    Stream(Duration),
    /// Downloads so much.
    Transfer(u64),
    /// Downloads for `watched` and cuts link a silently after `before`.
    Cut { before: Duration, watched: Duration },
}

/// One row: links, buffer, load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// Of the table in docs/benchmarks.md.
    pub(crate) row: &'static str,
    pub(crate) title: &'static str,
    pub(crate) links: [Link; 2],
    pub(crate) recv_max: u32,
    pub(crate) load: Load,
}

const WIDE: u32 = 33 << 20;
const STREAM: Load = Load::Stream(Duration::from_secs(8));

const EQUAL: [Link; 2] = [Link::new(100, 10), Link::new(50, 10)];
const NEAR: [Link; 2] = [Link::new(100, 5), Link::new(50, 40)];
const FAR: [Link; 2] = [Link::new(100, 5), Link::new(50, 100)];
const LOSSY: [Link; 2] = [Link { loss_permille: 10, ..Link::new(100, 5) }, Link::new(50, 30)];
const GIGA: [Link; 2] =
    [Link { queue_kib: 1024, ..Link::new(867, 3) }, Link { queue_kib: 1024, ..Link::new(300, 15) }];
/// Round trips of 20 and 40 ms.
const CUT: [Link; 2] = [Link::new(100, 10), Link::new(50, 20)];

const fn stream(title: &'static str, links: [Link; 2]) -> Scenario {
    Scenario { row: "X5", title, links, recv_max: WIDE, load: STREAM }
}

const fn small(
    row: &'static str,
    title: &'static str,
    links: [Link; 2],
    recv_max: u32,
) -> Scenario {
    Scenario { row, title, links, recv_max, load: STREAM }
}

const fn transfer(title: &'static str, links: [Link; 2], bytes: u64) -> Scenario {
    Scenario { row: "X8", title, links, recv_max: WIDE, load: Load::Transfer(bytes) }
}

/// Every row.
pub(crate) const ALL: &[Scenario] = &[
    stream("100/10 + 50/10", EQUAL),
    stream("100/5 + 50/40", NEAR),
    stream("100/5 + 50/100", FAR),
    stream("100/5 with 1 % loss + 50/30", LOSSY),
    stream("867/3 + 300/15", GIGA),
    small("X6", "100/5 + 50/40, 256 KiB", NEAR, 256 << 10),
    small("X6", "100/5 + 50/40, 1 MiB", NEAR, 1 << 20),
    small("X7", "100/5 + 50/100, 256 KiB", FAR, 256 << 10),
    small("X7", "100/5 + 50/100, 1 MiB", FAR, 1 << 20),
    transfer("100/5 + 50/40, 64 KiB", NEAR, 64 << 10),
    transfer("100/5 + 50/40, 1 MiB", NEAR, 1 << 20),
    transfer("100/5 + 50/40, 16 MiB", NEAR, 16 << 20),
    transfer("100/5 + 50/100, 64 KiB", FAR, 64 << 10),
    transfer("100/5 + 50/100, 1 MiB", FAR, 1 << 20),
    transfer("100/5 + 50/100, 16 MiB", FAR, 16 << 20),
    Scenario {
        row: "X9",
        title: "100/10 + 50/20, the first cut",
        links: CUT,
        recv_max: WIDE,
        load: Load::Cut { before: Duration::from_secs(4), watched: Duration::from_secs(9) },
    },
];
