//! The runs of the demo, one after the other over one set-up.
//!
//! Invariant: a run that fails is recorded and the next one still takes place, unless the demo was
//! interrupted or one of the processes it stands on has ended.

use super::Sizes;
use super::client::{Curl, Delivery, Dial, UploadFile};
use super::clients::Clients;
use super::content::Digest;
use super::counters::{LinkBytes, Mib};
use super::gateway::{Connection, Gateway};
use super::links::Links;
use super::origin::{Origin, Transfer as Carried};
use super::process::{Error, Interrupt};
use super::requirements::Requirements;
use super::summary::{Report, Run, Sessions, Transfer};
use super::table::{PathView, Table, mbps, mega};
use super::topology::{Access, Namespace, Topology};
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

/// How often a run is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often the gateway is asked for its connections.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// A run whose links carry less than [`PROGRESS_LEN`] for this long is given up.
const STALL: Duration = Duration::from_secs(20);
const PROGRESS_LEN: u64 = 64 * 1024;
/// A run is given up after this long whatever it does.
const RUN_MAX: Duration = Duration::from_secs(90);
/// How long the origin may take to report a transfer curl has seen the end of.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Wi-Fi carries again once this much has come over it after its return.
const CARRIES_LEN: u64 = 100_000;
/// After a cut, what is under way still arrives: a full queue and a delay of Wi-Fi, several times over.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// Streams of the concurrent sessions begin here, away from the other runs'.
const SESSIONS_SEED: u64 = 1 << 32;

/// The set-up and what was measured on it so far.
pub(super) struct Stage<'a> {
    topology: &'a Topology,
    gateway: Gateway,
    links: Links,
    origin: Origin,
    interrupt: Interrupt,
    dir: &'a Path,
    logs: PathBuf,
    table: Table,
    report: Report,
    /// The run's stream; every run has another.
    seed: u64,
}

/// What a look at the links and the gateway during a run gave.
struct Observer<'a> {
    phone: &'a Namespace,
    start: Instant,
    before: [LinkBytes; 2],
    last_asked: Option<Instant>,
    views: [PathView; 2],
}

impl<'a> Observer<'a> {
    fn new(phone: &'a Namespace) -> Result<Self, Error> {
        let before = read_links(phone)?;
        Ok(Self {
            phone,
            start: Instant::now(),
            before,
            last_asked: None,
            views: Default::default(),
        })
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn look(&mut self, links: &Links, gateway: &Gateway) -> Result<(), Error> {
        let now = read_links(self.phone)?;
        for access in Access::BOTH {
            let index = access as usize;
            self.views[index].bytes = now[index].since(self.before[index]);
            self.views[index].is_cut = links.is_cut(access);
        }
        if self.last_asked.is_none_or(|asked| asked.elapsed() >= ASK_INTERVAL) {
            self.last_asked = Some(Instant::now());
            // A view without the gateway's side is still a view.
            let connections = gateway.connections().unwrap_or_default();
            for access in Access::BOTH {
                self.views[access as usize].subflow = busiest(&connections, access);
            }
        }
        Ok(())
    }

    fn bytes(&self) -> [LinkBytes; 2] {
        [self.views[0].bytes, self.views[1].bytes]
    }

    fn total(&self) -> u64 {
        self.bytes().iter().map(|bytes| bytes.total()).sum()
    }
}

pub(super) fn read_links(phone: &Namespace) -> Result<[LinkBytes; 2], Error> {
    let read = |access: Access| LinkBytes::read(phone, access.phone_device());
    Ok([read(Access::Lte)?, read(Access::Wifi)?])
}

/// Of the subflows on one access, the one with the largest window.
fn busiest(connections: &[Connection], access: Access) -> Option<super::gateway::Subflow> {
    let name = access.to_string();
    let subflows = connections.iter().flat_map(|connection| &connection.subflows);
    subflows.filter(|subflow| subflow.port == name).max_by_key(|subflow| subflow.cwnd).cloned()
}

/// Gives up a run that no longer moves.
struct Patience {
    moved_at: Instant,
    moved_len: u64,
    start: Instant,
}

impl Patience {
    fn new() -> Self {
        let now = Instant::now();
        Self { moved_at: now, moved_len: 0, start: now }
    }

    /// `total` is what the links have carried since the run began.
    fn is_over(&mut self, total: u64) -> bool {
        if total >= self.moved_len + PROGRESS_LEN {
            self.moved_len = total;
            self.moved_at = Instant::now();
        }
        self.moved_at.elapsed() > STALL || self.start.elapsed() > RUN_MAX
    }
}

/// The silent cut of run (c) and what followed it.
enum Cut {
    /// Until curl has delivered this much.
    After(u64),
    Since(Instant),
    /// What was under way has arrived, and Wi-Fi had carried this much.
    Silent(Instant, u64),
    /// Wi-Fi is back since then, when it had carried this much.
    Healed(Instant, u64),
    Carries,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        topology: &'a Topology,
        gateway: Gateway,
        links: Links,
        origin: Origin,
        interrupt: Interrupt,
        dir: &'a Path,
        logs: PathBuf,
    ) -> Self {
        Self {
            topology,
            gateway,
            links,
            origin,
            interrupt,
            dir,
            logs,
            table: Table::new(),
            report: Report::default(),
            seed: 0,
        }
    }

    /// Everything the requirements allow; an error only if the demo was interrupted.
    pub(super) fn play(
        mut self,
        sizes: &Sizes,
        requirements: &Requirements,
        executable: &Path,
    ) -> Result<Report, Error> {
        let gateway_before = Mib::read(&self.topology.gateway)?;
        let phone_before = Mib::read(&self.topology.phone)?;
        if requirements.has_curl {
            self.attempt(|stage| stage.alone(Access::Lte, sizes.alone_lte))?;
            self.attempt(|stage| stage.alone(Access::Wifi, sizes.alone_wifi))?;
        }
        if requirements.has_mptcp_curl {
            self.attempt(|stage| stage.download(Run::Download, Dial::MPTCP, sizes.download))?;
            self.attempt(|stage| stage.upload(sizes.upload))?;
            self.attempt(|stage| stage.cut(sizes.cut_download, sizes.cut_for))?;
        }
        if requirements.has_curl {
            let by_name = Dial { by_name: true, ..Dial::TCP };
            self.attempt(|stage| stage.download(Run::PlainTcp, by_name, sizes.plain))?;
        }
        let mptcp = requirements.has_kernel_mptcp;
        self.attempt(|stage| stage.sessions(sizes.sessions, executable, mptcp))?;

        self.report.kernel_addresses = Some(self.topology.gateway_kernel_addresses()?);
        let gateway_after = Mib::read(&self.topology.gateway)?;
        self.report.gateway_mib = Some(gateway_after.since(&gateway_before));
        self.report.phone_mib = Some(Mib::read(&self.topology.phone)?.since(&phone_before));
        let drained = match self.gateway.end() {
            None => {
                println!("\nSIGTERM to the gateway");
                self.gateway.drain().map_err(|error| error.to_string())
            }
            // After the last run nobody else would tell.
            Some(cause) => Err(cause.to_string()),
        };
        self.report.drained = Some(drained);
        Ok(self.report)
    }

    /// Plays one run; its failure is noted, its interruption passed on.
    fn attempt(&mut self, run: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        if let Some(failure) = self.fallen() {
            let failure = failure.to_string();
            if !self.report.failures.contains(&failure) {
                self.report.failures.push(failure);
            }
            return Ok(());
        }
        self.seed += 1;
        match run(self) {
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                println!("  {error}");
                self.report.failures.push(error.to_string());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The first of the processes every run stands on that has ended.
    fn fallen(&mut self) -> Option<Error> {
        if let Some(cause) = self.gateway.end() {
            return Some(cause);
        }
        let fallen = |name| Error::new(name, "ended by itself; the remaining runs are left out");
        if !self.links.is_running() {
            return Some(fallen("the link emulator"));
        }
        (!self.origin.is_running()).then(|| fallen("the web server"))
    }

    fn alone(&mut self, access: Access, len: u64) -> Result<(), Error> {
        let dial = Dial { device: Some(access.phone_device()), ..Dial::TCP };
        self.download(Run::Alone(access), dial, len)
    }

    fn download(&mut self, run: Run, dial: Dial, len: u64) -> Result<(), Error> {
        self.download_watched(run, dial, len, |_, _, _| Ok(()))
    }

    fn cut(&mut self, len: u64, cut_for: Duration) -> Result<(), Error> {
        let mut cut = Cut::After(len / 4);
        let (mut during_cut, mut back_after) = (None, None);
        let outcome =
            self.download_watched(Run::Cut, Dial::MPTCP, len, |links, delivered, wifi| {
                match cut {
                    Cut::After(enough) if delivered >= enough => {
                        links.set_cut(Access::Wifi, true)?;
                        cut = Cut::Since(Instant::now());
                    }
                    Cut::Since(since) if since.elapsed() >= UNDER_WAY => {
                        cut = Cut::Silent(since, wifi);
                    }
                    Cut::Silent(since, before) if since.elapsed() >= cut_for => {
                        during_cut = Some(wifi.saturating_sub(before));
                        links.set_cut(Access::Wifi, false)?;
                        cut = Cut::Healed(Instant::now(), wifi);
                    }
                    Cut::Healed(since, before) if wifi >= before + CARRIES_LEN => {
                        back_after = Some(since.elapsed());
                        cut = Cut::Carries;
                    }
                    _ => {}
                }
                Ok(())
            });
        self.report.wifi_during_cut = during_cut;
        self.report.wifi_back_after = back_after;
        if self.links.is_cut(Access::Wifi) {
            self.links.set_cut(Access::Wifi, false)?;
        }
        outcome?;
        match cut {
            Cut::Healed(..) | Cut::Carries => Ok(()),
            Cut::After(_) | Cut::Since(_) | Cut::Silent(..) => {
                Err(Error::new("(c)", "the download was over before the cut was"))
            }
        }
    }

    /// `on_tick` sees the links, the bytes curl delivered and those Wi-Fi brought.
    fn download_watched(
        &mut self,
        run: Run,
        dial: Dial,
        len: u64,
        on_tick: impl FnMut(&mut Links, u64, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let seed = self.seed;
        let curl = Curl::download(&self.topology.phone, dial, len, seed)?;
        let (delivery, observer) = self.watch(run, curl, on_tick)?;
        let sent = self.origin.report(
            REPORT_TIMEOUT,
            &self.interrupt,
            |transfer| matches!(transfer, Carried::Sent { seed: of, .. } if *of == seed),
        )?;
        let sent = sent.map(Carried::digest);
        let received = Some(delivery.digest);
        self.record(run, len, delivery.len, (sent, received), &delivery, &observer);
        Ok(())
    }

    fn upload(&mut self, len: u64) -> Result<(), Error> {
        let file = UploadFile::create(self.dir.join("upload"), len, self.seed)?;
        let curl = Curl::upload(&self.topology.phone, Dial::MPTCP, file.path())?;
        let (delivery, observer) = self.watch(Run::Upload, curl, |_, _, _| Ok(()))?;
        let arrived = self.origin.report(REPORT_TIMEOUT, &self.interrupt, |transfer| {
            matches!(transfer, Carried::Received { .. })
        })?;
        let arrived_len = match arrived {
            Some(Carried::Received { len, .. } | Carried::Sent { len, .. }) => len,
            None => 0,
        };
        // What the server answered the phone; that it hashed this many bytes it told us here.
        let received = Digest::parse(delivery.head.trim());
        let digests = (Some(file.digest()), received);
        self.record(Run::Upload, len, arrived_len, digests, &delivery, &observer);
        Ok(())
    }

    fn record(
        &mut self,
        run: Run,
        wanted: u64,
        len: u64,
        (sent, received): (Option<Digest>, Option<Digest>),
        delivery: &Delivery,
        observer: &Observer<'_>,
    ) {
        self.report.transfers.push(Transfer {
            run,
            wanted,
            len,
            elapsed: delivery.gaps.last(),
            paths: observer.bytes(),
            longest_gap: delivery.gaps.longest(),
            longest_gap_at: delivery.gaps.longest_at(),
            sent,
            received,
            error: delivery.error.clone(),
        });
    }

    /// Shows a run until curl ends or patience does.
    fn watch(
        &mut self,
        run: Run,
        curl: Curl,
        mut on_tick: impl FnMut(&mut Links, u64, u64) -> Result<(), Error>,
    ) -> Result<(Delivery, Observer<'a>), Error> {
        self.table.begin(&format!("{}: {}", run.to_string().trim(), curl.command()));
        let mut observer = Observer::new(&self.topology.phone)?;
        let mut patience = Patience::new();
        loop {
            let is_finished = curl.is_finished();
            observer.look(&self.links, &self.gateway)?;
            let at = observer.elapsed();
            let delivered = curl.delivered();
            let progress = match run {
                Run::Upload => {
                    let sent = observer.bytes().iter().map(|bytes| bytes.tx).sum();
                    format!("{:7.1} MB sent, headers included", mega(sent))
                }
                _ => format!("{:7.1} MB delivered", mega(delivered)),
            };
            if is_finished || patience.is_over(observer.total()) || self.fallen().is_some() {
                self.table.end(at, &progress, &observer.views);
                break;
            }
            self.table.update(at, &progress, &observer.views);
            on_tick(&mut self.links, delivered, observer.bytes()[Access::Wifi as usize].rx)?;
            self.interrupt.check()?;
            thread::sleep(TICK);
        }
        let delivery = curl.finish()?;
        if let Some(error) = &delivery.error {
            println!("  curl: {error}");
        }
        Ok((delivery, observer))
    }

    fn sessions(&mut self, count: u32, executable: &Path, is_mptcp: bool) -> Result<(), Error> {
        let protocol = if is_mptcp { "MPTCP" } else { "TCP" };
        self.table.begin(&format!("(e) {count} concurrent sessions over {protocol}"));
        let log = self.logs.join("clients.log");
        let phone = &self.topology.phone;
        let mut observer = Observer::new(phone)?;
        let clients = Clients::start(phone, executable, &log, count, SESSIONS_SEED, is_mptcp)?;
        let mut patience = Patience::new();
        let elapsed = loop {
            let is_finished = clients.is_finished();
            observer.look(&self.links, &self.gateway)?;
            let at = observer.elapsed();
            let tally = clients.tally();
            let progress = format!(
                "{} open, {} done, {} lost, {:.1} MB, {:.1} Mbit/s",
                tally.open,
                tally.done,
                tally.lost,
                mega(tally.bytes),
                mbps(tally.bytes, at)
            );
            if is_finished || patience.is_over(observer.total()) || self.fallen().is_some() {
                self.table.end(at, &progress, &observer.views);
                break at;
            }
            self.table.update(at, &progress, &observer.views);
            self.interrupt.check()?;
            thread::sleep(TICK);
        };
        let (tally, losses) = clients.finish();
        for loss in losses.iter().take(10) {
            println!("  {loss}");
        }
        self.report.sessions = Some(Sessions {
            wanted: count,
            tally,
            losses,
            elapsed,
            paths: observer.bytes(),
            is_mptcp,
        });
        Ok(())
    }
}
