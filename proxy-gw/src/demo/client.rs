//! The phone's curl, watched: what it delivers is hashed and the pauses between deliveries measured
//! in this process, on the pipe from curl's standard output.
//!
//! Invariant: a transfer's figures come from bytes that arrived, never from what was asked for.

use super::content::{CHUNK_LEN, Content, Digest, Hasher};
use super::origin;
use super::process::{Error, Process, in_netns};
use super::topology::{GATEWAY_LTE, Namespace};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// The gateway's SOCKS5 port; the phone dials its LTE address over either access.
pub(super) const SOCKS_PORT: u16 = 1080;
/// A name the gateway's `[hosts]` table resolves to the origin.
pub(super) const ORIGIN_NAME: &str = "origin.example";
/// `-q` comes first: the user's .curlrc is not part of the demo, nor is a `no_proxy` of the
/// environment.
const TIDY_OPTIONS: [&str; 9] = [
    "-q",
    "--silent",
    "--show-error",
    "--fail",
    "--no-buffer",
    "--noproxy",
    "",
    "--connect-timeout",
    "15",
];
/// How much of a body is kept as text, for the reply to an upload.
const HEAD_LEN_MAX: usize = 128;

/// The longest pause between two deliveries, and when the first and the last one came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GapMeter {
    first: Option<Duration>,
    last: Duration,
    longest: Duration,
    longest_at: Duration,
}

impl GapMeter {
    /// Something was delivered `at` this time after the start; times do not decrease.
    pub(super) fn record(&mut self, at: Duration) {
        if self.first.is_none() {
            self.first = Some(at);
        } else {
            let gap = at.saturating_sub(self.last);
            if gap > self.longest {
                self.longest = gap;
                self.longest_at = self.last;
            }
        }
        self.last = at;
    }

    /// Zero before the second delivery.
    pub(super) const fn longest(&self) -> Duration {
        self.longest
    }

    /// When the longest pause began, after the start.
    pub(super) const fn longest_at(&self) -> Duration {
        self.longest_at
    }

    /// The last delivery, after the start.
    pub(super) const fn last(&self) -> Duration {
        self.last
    }
}

/// How curl is to reach the origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    /// Run under `mptcpize`: the kernel opens MPTCP where curl asks for TCP.
    pub(super) mptcp: bool,
    /// Bind to this device, leaving the routing table no choice.
    pub(super) device: Option<&'static str>,
    /// Let the gateway resolve the origin's name instead of giving its address.
    pub(super) by_name: bool,
}

impl Dial {
    /// The phone's ordinary way: MPTCP from wherever the routes lead.
    pub(super) const MPTCP: Self = Self { mptcp: true, device: None, by_name: false };
    /// A client without MPTCP.
    pub(super) const TCP: Self = Self { mptcp: false, device: None, by_name: false };

    /// curl with everything but the URL; its progress meter is off, its errors go to stderr.
    fn curl(self, phone: &Namespace) -> Command {
        let mut command = if self.mptcp {
            let mut command = in_netns(phone.name(), "mptcpize");
            command.args(["run", "curl"]);
            command
        } else {
            in_netns(phone.name(), "curl")
        };
        command.args(TIDY_OPTIONS);
        let proxy = format!("{GATEWAY_LTE}:{SOCKS_PORT}");
        command.args([if self.by_name { "--socks5-hostname" } else { "--socks5" }, &proxy]);
        if let Some(device) = self.device {
            command.args(["--interface", device]);
        }
        command
    }

    fn host(self) -> String {
        if self.by_name { ORIGIN_NAME.to_owned() } else { origin::address().ip().to_string() }
    }
}

/// What arrived of a transfer.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) len: u64,
    pub(super) digest: Digest,
    /// The first bytes of the body as text.
    pub(super) head: String,
    pub(super) gaps: GapMeter,
    /// curl's complaint; `None` if it ended well.
    pub(super) error: Option<String>,
}

/// A running curl.
#[derive(Debug)]
pub(super) struct Curl {
    command: String,
    reader: JoinHandle<Delivery>,
    delivered: Arc<AtomicU64>,
    process: Process,
}

impl Curl {
    /// Fetches the first `len` bytes of stream `seed`.
    pub(super) fn download(
        phone: &Namespace,
        dial: Dial,
        len: u64,
        seed: u64,
    ) -> Result<Self, Error> {
        let mut command = dial.curl(phone);
        Self::start(command.arg(format!("http://{}{}", dial.host(), origin::path(len, seed))))
    }

    /// Sends `file`; the body that comes back is the origin's SHA-256 of it.
    pub(super) fn upload(phone: &Namespace, dial: Dial, file: &Path) -> Result<Self, Error> {
        let mut command = dial.curl(phone);
        command.arg("--upload-file").arg(file);
        Self::start(command.arg(format!("http://{}/", dial.host())))
    }

    fn start(command: &mut Command) -> Result<Self, Error> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut process = Process::spawn("curl", command)?;
        let (stdout, stderr) = (process.take_stdout()?, process.take_stderr()?);
        let delivered = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&delivered);
        let reader = thread::spawn(move || read_all(stdout, stderr, start, &counter));
        let words = command.get_args().map(|word| word.to_string_lossy());
        // What a reader would type: from the program on, without what only tidies the output.
        let words = words.skip_while(|word| word != "mptcpize" && word != "curl");
        let shown: Vec<_> = words.filter(|word| !TIDY_OPTIONS.contains(&word.as_ref())).collect();
        let command = shown.join(" ");
        Ok(Self { command, reader, delivered, process })
    }

    /// The command line in the phone, for a reader.
    pub(super) fn command(&self) -> &str {
        &self.command
    }

    /// Bytes of the body so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Whether curl has closed its output.
    pub(super) fn is_finished(&self) -> bool {
        self.reader.is_finished()
    }

    /// Ends curl if it still runs and says what arrived.
    pub(super) fn finish(mut self) -> Result<Delivery, Error> {
        let interrupted = !self.reader.is_finished();
        if interrupted {
            self.process.kill();
        }
        let mut delivery = self
            .reader
            .join()
            .map_err(|_| Error::new("reading from curl", "the reader panicked"))?;
        let status = self.process.wait()?;
        if interrupted {
            delivery.error = Some("given up unfinished".to_owned());
        } else if !status.success() {
            let told = delivery.error.take().unwrap_or_default();
            delivery.error = Some(format!("{status} {told}").trim().to_owned());
        } else {
            delivery.error = None;
        }
        Ok(delivery)
    }
}

/// Reads `body` to its end, then `complaints`.
fn read_all(
    mut body: impl Read,
    mut complaints: impl Read,
    start: Instant,
    delivered: &AtomicU64,
) -> Delivery {
    let mut hasher = Hasher::default();
    let mut gaps = GapMeter::default();
    let mut head = Vec::new();
    let mut chunk = vec![0; CHUNK_LEN];
    while let Ok(len @ 1..) = body.read(&mut chunk) {
        gaps.record(start.elapsed());
        let bytes = &chunk[..len];
        hasher.update(bytes);
        delivered.store(hasher.len(), Ordering::Relaxed);
        let room = HEAD_LEN_MAX - head.len();
        head.extend_from_slice(&bytes[..len.min(room)]);
    }
    let mut told = Vec::new();
    let _ = complaints.read_to_end(&mut told);
    let told = String::from_utf8_lossy(&told).trim().to_owned();
    Delivery {
        len: hasher.len(),
        digest: hasher.finish(),
        head: String::from_utf8_lossy(&head).into_owned(),
        gaps,
        error: (!told.is_empty()).then_some(told),
    }
}

/// A file with content to upload, removed when dropped.
#[derive(Debug)]
pub(super) struct UploadFile {
    path: PathBuf,
    digest: Digest,
}

impl UploadFile {
    /// Writes the first `len` bytes of stream `seed` to `path`.
    pub(super) fn create(path: PathBuf, len: u64, seed: u64) -> Result<Self, Error> {
        let step = || format!("writing {}", path.display());
        let mut file = File::create(&path).map_err(Error::in_step(step()))?;
        let mut content = Content::new(seed);
        let mut hasher = Hasher::default();
        let mut chunk = vec![0; CHUNK_LEN];
        while hasher.len() < len {
            let step_len = usize::try_from(len - hasher.len()).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
            content.fill(&mut chunk[..step_len]);
            file.write_all(&chunk[..step_len]).map_err(Error::in_step(step()))?;
            hasher.update(&chunk[..step_len]);
        }
        Ok(Self { path, digest: hasher.finish() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Of the bytes written.
    pub(super) const fn digest(&self) -> Digest {
        self.digest
    }
}

impl Drop for UploadFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn gaps_are_between_deliveries_only() {
        let ms = Duration::from_millis;
        let mut gaps = GapMeter::default();
        gaps.record(ms(900));
        assert_eq!(gaps.longest(), Duration::ZERO, "waiting for the first byte is no gap");
        for at in [905, 1000, 1020, 1100] {
            gaps.record(ms(at));
        }
        assert_eq!((gaps.longest(), gaps.longest_at(), gaps.last()), (ms(95), ms(905), ms(1100)));
    }

    proptest! {
        #[test]
        fn the_longest_gap_is_the_greatest_difference(
            mut times in prop::collection::vec(0_u64..10_000, 0..30),
        ) {
            times.sort_unstable();
            let mut gaps = GapMeter::default();
            times.iter().for_each(|&at| gaps.record(Duration::from_millis(at)));
            let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            prop_assert_eq!(gaps.longest(), Duration::from_millis(longest));
        }
    }

    #[test]
    fn a_delivery_is_hashed_and_its_head_kept() {
        let body = vec![b'x'; CHUNK_LEN + 9];
        let delivered = AtomicU64::new(0);
        let delivery = read_all(&body[..], &b" lost \n"[..], Instant::now(), &delivered);
        let mut hasher = Hasher::default();
        hasher.update(&body);
        assert_eq!(delivery.len, body.len() as u64);
        assert_eq!(delivered.into_inner(), delivery.len);
        assert_eq!(delivery.digest, hasher.finish());
        assert_eq!(delivery.head, "x".repeat(HEAD_LEN_MAX));
        assert_eq!(delivery.error.as_deref(), Some("lost"));
    }

    #[test]
    fn an_upload_file_holds_the_stream_and_goes_away() {
        let path = std::env::temp_dir().join(format!("plait-upload-{}", std::process::id()));
        let len = CHUNK_LEN as u64 + 5;
        let file = UploadFile::create(path.clone(), len, 4).unwrap();
        assert_eq!(file.digest(), Digest::of_content(4, len));
        let mut hasher = Hasher::default();
        hasher.update(&std::fs::read(file.path()).unwrap());
        assert_eq!(hasher.finish(), file.digest());
        drop(file);
        assert!(!path.exists());
    }
}
