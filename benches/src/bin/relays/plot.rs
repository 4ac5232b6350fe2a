//! A bar chart as SVG.

use core::fmt::Write as _;

/// One bar.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    pub(crate) is_ours: bool,
}

const ROW: usize = 22;
const LEFT: usize = 210;
const WIDTH: usize = 420;
/// Bars end at so many times the median: one bad peer must not make lines of the others.
const CLIP: f64 = 3.0;

/// Bars from the left, each with its value; those too long for the picture are cut and marked.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    let mut values: Vec<_> = bars.iter().map(|bar| bar.value).collect();
    values.sort_by(f64::total_cmp);
    let median = values.get(values.len() / 2).copied().unwrap_or(0.0);
    let most = values.last().copied().unwrap_or(0.0).min(median * CLIP).max(f64::MIN_POSITIVE);
    let (width, height) = (LEFT + WIDTH + 80, ROW * (bars.len() + 2));
    // Formatting into a String cannot fail. A background of its own: pages may be dark.
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"20\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    for (row, bar) in bars.iter().enumerate() {
        let top = ROW * (row + 1) + ROW / 2;
        let (baseline, color) = (top + 13, if bar.is_ours { "#1a7f5a" } else { "#8a94a6" });
        let length = (bar.value.min(most) / most * WIDTH as f64).max(1.0);
        let cut = if bar.value > most { " »" } else { "" };
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" height=\"16\" fill=\"{color}\"/>\n\
             <text x=\"{:.1}\" y=\"{baseline}\">{:.2}{cut}</text>",
            LEFT - 8,
            escaped(&bar.label),
            LEFT as f64 + length + 6.0,
            bar.value
        );
    }
    text.push_str("</svg>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_in_proportion_and_the_longest_is_cut() {
        let bar = |label: &str, value| Bar { label: label.to_owned(), value, is_ours: value < 2.0 };
        let svg = bars("a < b", &[bar("x & y", 1.0), bar("z", 2.0), bar("w", 90.0)]);
        assert!(svg.contains("a &lt; b") && svg.contains("x &amp; y"), "{svg}");
        assert!(svg.contains("width=\"70.0\"") && svg.contains("width=\"140.0\""), "{svg}");
        assert!(svg.contains("width=\"420.0\"") && svg.contains("90.00 »"), "{svg}");
        assert_eq!(svg.matches("#1a7f5a").count(), 1);
        assert!(bars("nothing", &[]).ends_with("</svg>\n"));
    }
}
