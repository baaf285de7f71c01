use super::*;
use fleetscore_schemas::SeriesName;

const T: i64 = 1_535_497_205_000_000; // 2018-08-28T23:00:05Z

fn evaluate(filter: &str, value: &str, rows: &[(u32, i64, f64)]) -> Evaluated {
    let names = [(0, SeriesName::new("d1", "temp")), (2, SeriesName::new("d2", "pressure"))];
    let names: SeriesNames = names.into_iter().collect();
    RowExpressions::plan(filter, value)
        .unwrap()
        .evaluate(
            &rows.iter().map(|r| r.0).collect::<Vec<_>>().into(),
            &rows.iter().map(|r| r.1).collect::<Vec<_>>().into(),
            &rows.iter().map(|r| r.2).collect::<Vec<_>>().into(),
            &names,
        )
        .unwrap()
}

#[test]
fn a_filter_sees_all_four_columns() {
    let rows = [(0, T, 1.0), (2, T + 1_000_000, 2.0), (0, T + 60_000_000, 3.0)];
    use Fate::{Filtered, Keep};
    for (filter, want) in [
        ("", [Keep, Keep, Keep]),
        ("device = 'd1'", [Keep, Filtered, Keep]),
        ("sensor like 'press%' or value > 2", [Filtered, Keep, Keep]),
        ("ts < '2018-08-28T23:01:00Z'", [Keep, Keep, Filtered]),
        ("extract(minute from ts) = 1", [Filtered, Filtered, Keep]),
        ("device || '/' || sensor in ('d2/pressure')", [Filtered, Keep, Filtered]),
        ("regexp_like(sensor, '^t')", [Keep, Filtered, Keep]),
        ("false", [Filtered, Filtered, Filtered]),
    ] {
        let out = evaluate(filter, "", &rows);
        assert_eq!(out.fates, want, "{filter}");
        assert_eq!(out.values, [1.0, 2.0, 3.0]);
    }
}

#[test]
fn a_value_expression_may_be_any_number() {
    for (value, want) in [
        ("value * 1.8 + 32", 33.8),
        ("cast(value as bigint) % 2", 1.0),
        ("case when sensor = 'temp' then value - 273.15 else value end", -272.15),
        ("-0.0 * value", 0.0),
        ("7", 7.0),
        ("abs(-value) + round(value)", 2.0),
    ] {
        let out = evaluate("", value, &[(0, T, 1.0)]);
        assert_eq!(out.fates, [Fate::Keep], "{value}");
        assert!((out.values[0] - want).abs() < 1e-12, "{value}: {}", out.values[0]);
        assert!(!out.values[0].is_sign_negative() || want < 0.0, "{value}");
    }
}

#[test]
fn an_error_spoils_its_own_reading_alone() {
    let rows = [(0, T, 1.0), (0, T, 0.0), (0, T, 4.0), (2, T, -1.0)];
    // Integer division by zero fails the batch as a whole.
    let out = evaluate("", "10 / cast(value as bigint)", &rows);
    assert_eq!(out.fates, [Fate::Keep, Fate::Failed, Fate::Keep, Fate::Keep]);
    assert_eq!((out.values[0], out.values[2]), (10.0, 2.0));
    assert!(out.reasons.len() == 1 && out.reasons[0].0 == 1, "{:?}", out.reasons);
    assert!(out.reasons[0].1.contains("readings.value"), "{:?}", out.reasons);
    // NULL and what is no finite number.
    let out = evaluate("", "case when value > 2 then null else ln(value) end", &rows);
    assert_eq!(out.fates, [Fate::Keep, Fate::Failed, Fate::Failed, Fate::Failed]);
    let out = evaluate("nullif(value, 1) > 2", "", &rows);
    assert_eq!(out.fates, [Fate::Failed, Fate::Filtered, Fate::Keep, Fate::Filtered]);
    // The filter protects the value expression.
    let out = evaluate("value > 0", "ln(value)", &rows);
    assert_eq!(out.fates, [Fate::Keep, Fate::Filtered, Fate::Keep, Fate::Filtered]);
}

#[test]
fn mistakes_name_the_setting() {
    for (filter, value, setting, words) in [
        ("devise = 'x'", "", "readings.where", "devise"),
        ("value +", "", "readings.where", ""),
        ("value", "", "readings.where", "true or false"),
        ("", "device", "readings.value", "number"),
        ("", "sum(value)", "readings.value", "sum"),
        ("value > (select 1)", "", "readings.where", "subquery"),
        ("value > (select max(x) from t)", "", "readings.where", ""),
        ("ts > now()", "", "readings.where", "now"),
        ("value > random()", "", "readings.where", "random"),
        ("value > $1", "", "readings.where", ""),
        ("value > 1; drop table x", "", "readings.where", ""),
    ] {
        let e = RowExpressions::plan(filter, value).unwrap_err();
        let AggregatorError::Setting { setting: s, message } = &e else { panic!("{e}") };
        assert_eq!(*s, setting, "{filter}|{value}");
        assert!(message.contains(words), "{filter}|{value}: {message}");
    }
}
