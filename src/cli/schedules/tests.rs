use super::*;
use fleetscore_settings::describe;
use fleetscore_store::{Pause, ScheduleSpec};
use uuid::Uuid;

const NOW: Timestamp = Timestamp(1_767_225_600 * US_PER_S);

/// A schedule that was just made.
pub(super) fn row(name: &str) -> ScheduleRow {
    ScheduleRow::new(ScheduleSpec::new(name, 60 * US_PER_S), NOW)
}

#[test]
fn a_schedule_says_whether_it_does_what_it_should() {
    let pause = || Some(Pause { id: Uuid::nil(), at: NOW, by: "ann".to_owned() });
    type Set = fn(&mut ScheduleRow);
    let cases: [(&str, Set, bool, &str); 7] = [
        ("just made", |_| (), false, "nobody looks: no `up` or `score` has run yet"),
        ("looked at now", |s| s.looked_at = Some(NOW), false, "runs"),
        ("looked at a minute ago", |s| s.looked_at = Some(NOW.plus_us(-ALONE_US)), false, "runs"),
        (
            "not looked at for longer",
            |s| s.looked_at = Some(NOW.plus_us(-ALONE_US - 1)),
            false,
            "nobody looks: no `up` or `score` since 2025-12-31T23:58:59.999999Z",
        ),
        ("paused", |s| s.looked_at = Some(NOW), true, "paused since 2026-01-01T00:00:00Z by ann"),
        ("disabled", |s| s.spec.enabled = false, false, "disabled by its settings"),
        ("manual", |s| s.spec.trigger = Trigger::Manual, false, "scores when asked"),
    ];
    for (name, set, paused, said) in cases {
        let mut s = row("s");
        set(&mut s);
        s.pause = if paused { pause() } else { None };
        assert_eq!(state(&s, NOW), said, "{name}");
    }
}

#[test]
fn a_line_of_the_list() {
    let mut s = row("hourly");
    s.spec.trigger = Trigger::Cron { expression: "0 * * * *".into(), time_zone: "Europe/Berlin".into() };
    s.covered_until = Some(NOW);
    let got = as_row(&s, NOW);
    assert_eq!(got[..7], ["hourly", "cron 0 * * * * (Europe/Berlin)", "1m", "1m", "mean", "all", "-"]);
    assert_eq!(got[7], "2026-01-01T00:00:00Z");
}

#[test]
fn scripts_get_every_setting_under_its_name() {
    let s = row("s");
    let value = as_json(&s, NOW);
    for (key, text) in describe(&s.spec) {
        let got = value.get(key).unwrap_or_else(|| panic!("{key} is missing"));
        let off = matches!(text.as_deref(), None | Some("off" | "auto" | "active")) || key == "time_zone";
        assert_eq!(got.is_null(), off, "{key}: {got}");
    }
    assert_eq!((value["max_retries"].as_i64(), value["timeout"].as_str()), (Some(2), Some("10m")));
    assert_eq!((value["allowed_failed_percent"].as_i64(), value["keep"].as_str()), (Some(100), Some("all")));
    assert!(value["paused_at"].is_null() && value["looked_at"].is_null());
    assert_eq!(value["created_at"], "2026-01-01T00:00:00.000000Z");
}

#[test]
fn who_misspells_a_name_sees_the_names() {
    assert_eq!(
        of_names("defalt", &["default".into(), "slide".into()]),
        "there is no schedule `defalt`; there are: default, slide"
    );
    assert!(of_names("x", &[]).contains("creates those of the settings"));
}
