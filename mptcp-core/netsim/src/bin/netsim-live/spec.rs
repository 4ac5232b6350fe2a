//! What a link is, from the words of `--link`, and the settings both `--link` and `set` share.
//! Every word is `KEY=VALUE`; a mistake names the word and what was expected.

use crate::units;
use netsim::{LinkConfig, Loss};

/// Longest interface name Linux takes.
const MAX_DEVICE_NAME: usize = 15;
/// Ethernet header with one VLAN tag: what a frame adds to the devices' MTU.
const FRAME_OVERHEAD: usize = 18;

/// A device to create.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct End {
    /// Name under `/var/run/netns`; `None` is where the process runs.
    pub(crate) namespace: Option<String>,
    /// Name of the interface.
    pub(crate) device: String,
    /// Addresses with prefix lengths, as `ip address add` takes them.
    pub(crate) addresses: Vec<String>,
}

/// One `--link`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LinkSpec {
    /// What `set` and `get` call it.
    pub(crate) name: String,
    pub(crate) a: End,
    pub(crate) b: End,
    /// MTU of both devices.
    pub(crate) mtu: u16,
    pub(crate) ab: LinkConfig,
    pub(crate) ba: LinkConfig,
}

impl LinkSpec {
    /// Reads `NAME a=NS:DEV b=NS:DEV [KEY=VALUE]...`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let name = words.next().ok_or("a link needs a name")?;
        if !is_plain(name) {
            return Err(format!("link name '{name}' must be letters, digits, '-' or '_'"));
        }
        let (mut a, mut b, mut mtu) = (None, None, 1_500_u16);
        let (mut a_addresses, mut b_addresses, mut settings) = (Vec::new(), Vec::new(), Vec::new());
        for word in words {
            let (key, value) = split(word)?;
            match key {
                "a" => a = Some(End::parse(value)?),
                "b" => b = Some(End::parse(value)?),
                "a.addr" => a_addresses.push(value.to_owned()),
                "b.addr" => b_addresses.push(value.to_owned()),
                "mtu" => {
                    let valid = value.parse().ok().filter(|mtu| (68..=65_000).contains(mtu));
                    mtu = valid.ok_or_else(|| format!("mtu '{value}' is not in 68..=65000"))?;
                }
                _ => settings.push(word),
            }
        }
        let mut a = a.ok_or("a=NS:DEV is missing")?;
        let mut b = b.ok_or("b=NS:DEV is missing")?;
        (a.addresses, b.addresses) = (a_addresses, b_addresses);
        let default = LinkConfig {
            queue_bytes: 256 << 10,
            mtu: usize::from(mtu) + FRAME_OVERHEAD,
            ..LinkConfig::default()
        };
        let (mut ab, mut ba) = (default.clone(), default);
        apply_settings(&mut ab, &mut ba, settings)?;
        Ok(Self { name: name.to_owned(), a, b, mtu, ab, ba })
    }
}

impl End {
    fn parse(text: &str) -> Result<Self, String> {
        let wanted = || format!("'{text}' is not NAMESPACE:DEVICE");
        let (namespace, device) = text.split_once(':').ok_or_else(wanted)?;
        if !is_plain(device) || device.len() > MAX_DEVICE_NAME {
            return Err(format!(
                "device name '{device}' must be 1 to {MAX_DEVICE_NAME} letters, digits, '-' or '_'"
            ));
        }
        if namespace.contains('/') || namespace == "." || namespace == ".." {
            return Err(format!("namespace '{namespace}' is not a name that 'ip netns' shows"));
        }
        let namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
        Ok(Self { namespace, device: device.to_owned(), addresses: Vec::new() })
    }
}

/// Refuses two links of one name and two devices of one name in one namespace.
pub(crate) fn check_unique(specs: &[LinkSpec]) -> Result<(), String> {
    let mut names = Vec::new();
    let mut devices = Vec::new();
    for spec in specs {
        if names.contains(&&spec.name) {
            return Err(format!("two links are called '{}'", spec.name));
        }
        names.push(&spec.name);
        for end in [&spec.a, &spec.b] {
            let place = (&end.namespace, &end.device);
            if devices.contains(&place) {
                return Err(format!("device '{}' is used twice in one namespace", end.device));
            }
            devices.push(place);
        }
    }
    Ok(())
}

/// Applies `KEY=VALUE` words to both directions, or to the one a word names as `ab.` or `ba.`.
pub(crate) fn apply_settings<'a>(
    ab: &mut LinkConfig,
    ba: &mut LinkConfig,
    words: impl IntoIterator<Item = &'a str>,
) -> Result<(), String> {
    for word in words {
        let (key, value) = split(word)?;
        if let Some(key) = key.strip_prefix("ab.") {
            apply(ab, key, value)?;
        } else if let Some(key) = key.strip_prefix("ba.") {
            apply(ba, key, value)?;
        } else {
            apply(ab, key, value)?;
            apply(ba, key, value)?;
        }
    }
    Ok(())
}

fn apply(config: &mut LinkConfig, key: &str, value: &str) -> Result<(), String> {
    match key {
        "rate" => config.rate_bps = units::rate(value)?,
        "delay" => config.delay_ns = units::time_ns(value)?,
        "jitter" => config.jitter_ns = units::time_ns(value)?,
        "loss" => config.loss = loss(value)?,
        "reorder" => config.reorder_ppm = units::share_ppm(value)?,
        "reorder-by" => config.reorder_extra_ns = units::time_ns(value)?,
        "duplicate" => config.duplicate_ppm = units::share_ppm(value)?,
        "queue" => config.queue_bytes = units::size(value)?,
        "blackhole" => {
            config.blackhole = match value {
                "1" => true,
                "0" => false,
                _ => return Err(format!("blackhole '{value}' is neither 1 nor 0")),
            }
        }
        "mtu" | "a" | "b" | "a.addr" | "b.addr" => {
            return Err(format!("'{key}' holds for the whole link and can only be given at start"));
        }
        _ => {
            return Err(format!(
                "unknown key '{key}'; known: rate delay jitter loss reorder reorder-by duplicate \
                 queue blackhole"
            ));
        }
    }
    Ok(())
}

fn loss(text: &str) -> Result<Loss, String> {
    let Some(burst) = text.strip_prefix("burst:") else {
        let ppm = units::share_ppm(text)?;
        return Ok(if ppm == 0 { Loss::None } else { Loss::Bernoulli(ppm) });
    };
    let (enter, leave) = burst
        .split_once(':')
        .ok_or_else(|| format!("'{text}' is not burst:ENTER:LEAVE such as burst:0.1%:20%"))?;
    Ok(Loss::GilbertElliott {
        enter_ppm: units::share_ppm(enter)?,
        leave_ppm: units::share_ppm(leave)?,
        good_ppm: 0,
        burst_ppm: 1_000_000,
    })
}

fn split(word: &str) -> Result<(&str, &str), String> {
    word.split_once('=').ok_or_else(|| format!("'{word}' is not KEY=VALUE"))
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !name.is_empty() && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_whole() {
        let spec = LinkSpec::parse(
            "lte a=phone:lte0 b=:up0 rate=60mbit delay=20ms ba.rate=10mbit ab.loss=burst:1%:20% \
             queue=512KiB mtu=1400 b.addr=10.0.0.1/24 b.addr=fd00::1/64",
        )
        .unwrap();
        assert_eq!(spec.name, "lte");
        assert_eq!(spec.a.namespace.as_deref(), Some("phone"));
        assert_eq!((spec.b.namespace, spec.b.device.as_str()), (None, "up0"));
        assert_eq!(spec.b.addresses, ["10.0.0.1/24", "fd00::1/64"]);
        assert_eq!((spec.ab.rate_bps, spec.ba.rate_bps), (Some(60_000_000), Some(10_000_000)));
        assert_eq!((spec.ab.delay_ns, spec.ba.delay_ns), (20_000_000, 20_000_000));
        assert!(matches!(spec.ab.loss, Loss::GilbertElliott { enter_ppm: 10_000, .. }));
        assert_eq!(spec.ba.loss, Loss::None);
        assert_eq!((spec.mtu, spec.ab.mtu, spec.ab.queue_bytes), (1_400, 1_418, 524_288));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, wanted) in [
            ("", "needs a name"),
            ("l/x a=x:y b=x:z", "'l/x'"),
            ("l b=x:y", "a=NS:DEV"),
            ("l a=x:y b=z", "'z'"),
            ("l a=x:sixteen-letters0 b=x:y", "'sixteen-letters0'"),
            ("l a=../x:y b=x:z", "'../x'"),
            ("l a=x:y b=x:z speed=1mbit", "unknown key 'speed'"),
            ("l a=x:y b=x:z rate", "'rate'"),
            ("l a=x:y b=x:z mtu=20", "'20'"),
            ("l a=x:y b=x:z blackhole=yes", "'yes'"),
        ] {
            let error = LinkSpec::parse(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let one = LinkSpec::parse("l a=x:y b=x:z").unwrap();
        let other = LinkSpec::parse("m a=x:y b=q:z").unwrap();
        assert!(check_unique(&[one.clone(), one.clone()]).unwrap_err().contains("'l'"));
        assert!(check_unique(&[one, other]).unwrap_err().contains("'y'"));
    }

    #[test]
    fn a_failed_set_changes_nothing_it_was_given_back() {
        let (mut ab, mut ba) = (LinkConfig::default(), LinkConfig::default());
        assert!(apply_settings(&mut ab, &mut ba, ["mtu=1400"]).unwrap_err().contains("at start"));
        assert!(apply_settings(&mut ab, &mut ba, ["ab.blackhole=1"]).is_ok());
        assert!(ab.blackhole && !ba.blackhole);
    }
}
