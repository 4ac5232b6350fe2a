//! Numbers with units, as people write them for links: rates, times, shares, sizes. Each parser
//! reads a decimal number and one suffix, exactly, and says what it wanted when it cannot.

/// Reads a decimal number times `scale`, rounding down; `None` if it is malformed or too large.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 9 || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let total = (u128::from(whole) * divisor + u128::from(fraction)) * u128::from(scale) / divisor;
    u64::try_from(total).ok()
}

/// Reads `text` with the first suffix of `units` that it ends in.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (suffix, scale) = units.iter().find(|(suffix, _)| text.ends_with(suffix))?;
    scaled(text.strip_suffix(suffix)?, *scale)
}

/// Bits per second: `60mbit`; `none` is no limit.
pub(crate) fn rate(text: &str) -> Result<Option<u64>, String> {
    if text == "none" {
        return Ok(None);
    }
    let units = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];
    let rate = with_unit(text, &units);
    rate.map(Some).ok_or_else(|| format!("'{text}' is not a rate such as 60mbit or none"))
}

/// Nanoseconds: `20ms`.
pub(crate) fn time_ns(text: &str) -> Result<u64, String> {
    let units = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
    with_unit(text, &units).ok_or_else(|| format!("'{text}' is not a time such as 20ms or 500us"))
}

/// Millionths: `0.1%` is 1,000.
pub(crate) fn share_ppm(text: &str) -> Result<u32, String> {
    with_unit(text, &[("%", 10_000)])
        .and_then(|ppm| u32::try_from(ppm).ok())
        .filter(|&ppm| ppm <= 1_000_000)
        .ok_or_else(|| format!("'{text}' is not a share such as 0.1%"))
}

/// Bytes: `512KiB`, `64kB`, `1500`.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let units = [
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
        ("B", 1),
        ("", 1),
    ];
    with_unit(text, &units)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| format!("'{text}' is not a size such as 512KiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_exact() {
        assert_eq!(rate("60mbit"), Ok(Some(60_000_000)));
        assert_eq!(rate("1.5gbit"), Ok(Some(1_500_000_000)));
        assert_eq!(rate("0bit"), Ok(Some(0)));
        assert_eq!(rate("none"), Ok(None));
        assert_eq!(time_ns("7.5ms"), Ok(7_500_000));
        assert_eq!(time_ns("2s"), Ok(2_000_000_000));
        assert_eq!(share_ppm("0.0001%"), Ok(1));
        assert_eq!(share_ppm("100%"), Ok(1_000_000));
        assert_eq!(size("512KiB"), Ok(524_288));
        assert_eq!(size("1500"), Ok(1_500));
    }

    #[test]
    fn nonsense_is_named() {
        for text in ["", "mbit", "60", "-1mbit", "1.2.3mbit", "99999999999gbit", "1e3kbit"] {
            let error = rate(text).unwrap_err();
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
        assert!(time_ns("20").is_err());
        assert!(time_ns(".5ms").is_err());
        assert!(share_ppm("101%").is_err());
        assert!(share_ppm("1").is_err());
        assert!(size("5KB").is_err());
    }
}
