//! The configuration: any text is either refused with messages of one line each, or resolves to a
//! configuration that, printed, means the same.

use proxy_gw::config::parse;

/// Takes `data`, if it is UTF-8, as settings (each ended by a NUL) and the file behind them.
pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut parts: Vec<String> = text.split('\0').map(str::to_owned).collect();
    let file = parts.pop().unwrap_or_default();
    match parse("gw.toml", &file, &parts) {
        Ok(config) => {
            let printed = config.to_toml();
            let again = parse("printed", &printed, &[]);
            assert_eq!(again.as_ref(), Ok(&config), "{printed}");
            for warning in config.warnings() {
                assert!(!warning.contains('\n'), "{warning:?}");
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without saying why");
            for problem in problems {
                let line = problem.to_string();
                assert!(!line.contains(char::is_control), "{line:?} is more than a line");
            }
        }
    }
}
