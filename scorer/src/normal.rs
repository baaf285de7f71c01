//! What a model calls normal, in words that fit one cell: `10.01 … 14.18`.

/// The intervals of values that a model calls normal as text; `none` where it calls everything an anomaly. Digits are
/// as many as the width of an interval asks for.
pub(crate) fn range_text(intervals: &[(f64, f64)]) -> String {
    if intervals.is_empty() {
        return "none".to_owned();
    }
    let parts: Vec<String> = intervals
        .iter()
        .map(|(low, high)| {
            let digits = decimals(high - low);
            format!("{} … {}", number(*low, digits), number(*high, digits))
        })
        .collect();
    parts.join(", ")
}

/// Decimal places that show a width with three significant digits.
fn decimals(width: f64) -> usize {
    if !width.is_finite() || width <= 0.0 {
        return 6;
    }
    (2.0 - width.log10().floor()).clamp(0.0, 15.0) as usize
}

fn number(x: f64, digits: usize) -> String {
    match x {
        f64::NEG_INFINITY => "−∞".to_owned(),
        f64::INFINITY => "∞".to_owned(),
        x => format!("{x:.digits$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_follow_the_width() {
        for (intervals, text) in [
            (vec![(10.0123, 14.1789)], "10.01 … 14.18"),
            (vec![(1000.4, 1900.6)], "1000 … 1901"),
            (vec![(0.00101, 0.00202)], "0.00101 … 0.00202"),
            (vec![(1.0, 2.0), (5.0, 6.5)], "1.00 … 2.00, 5.00 … 6.50"),
            (vec![(f64::NEG_INFINITY, 3.0)], "−∞ … 3.000000"),
            (vec![], "none"),
        ] {
            assert_eq!(range_text(&intervals), text);
        }
    }
}
