//! Tables `[schedules.NAME]`.

use super::reader::{Reader, quoted};
use super::units::{duration_or_off, duration_us, show_duration};
use super::{show_off, show_us};
use fleetscore_schemas::window::Feature;
use fleetscore_store::{CatchUp, ScheduleSpec};

pub(super) const KEYS: [&str; 7] =
    ["window", "hop", "features", "catch_up", "max_age", "rescore_delay", "republish_gap"];

/// All schedules, `default` first; it exists unless a table of that name says otherwise.
pub(super) fn read(r: &mut Reader, interval_us: i64) -> Vec<ScheduleSpec> {
    let mut names = r.tables("schedules");
    names.retain(|n| n != "default");
    names.insert(0, "default".to_owned());
    names.into_iter().map(|name| schedule(r, name, interval_us)).collect()
}

fn schedule(r: &mut Reader, name: String, interval_us: i64) -> ScheduleSpec {
    let path = |key: &'static str| -> [String; 3] { ["schedules".to_owned(), name.clone(), key.to_owned()] };
    let multiple = |what: &'static str| {
        move |t: &str| match duration_us(t)? {
            us if us <= 0 || us % interval_us != 0 => Err(format!(
                "`{t}`: a {what} is a multiple of the pane (interval = {})",
                show_duration(interval_us)
            )),
            us => Ok(us),
        }
    };
    if !is_name(&name) {
        let what = "is no name of a schedule: a-z first, then a-z, 0-9 and _, at most 40";
        r.mistake(&["schedules", &name], what, "its table");
    }
    let (window_us, _) = text(r, &path("window"), &show_duration(interval_us), multiple("window"), show_us);
    // A window that is not the pane tumbles unless a hop says otherwise.
    let (hop_us, hop_from) = text(r, &path("hop"), &show_duration(window_us), multiple("hop"), show_us);
    if hop_us > window_us {
        r.mistake(
            &refs(&path("hop")),
            "is longer than the window: readings between windows would be left out",
            &hop_from,
        );
    }
    let features = features(r, &path("features"));
    let (catch_up, _) = text(r, &path("catch_up"), "all", catch_up, |c| quoted(c.as_str()));
    let (max_age_us, _) = text(r, &path("max_age"), "off", duration_or_off, |d| quoted(&show_off(*d)));
    let (rescore_delay_us, _) = text(r, &path("rescore_delay"), "30s", duration_us, show_us);
    let (republish_gap_us, _) = text(r, &path("republish_gap"), "10m", duration_us, show_us);
    ScheduleSpec {
        name,
        window_us,
        hop_us,
        features,
        catch_up,
        max_age_us,
        rescore_delay_us,
        republish_gap_us,
    }
}

fn refs(path: &[String; 3]) -> [&str; 3] {
    [&path[0], &path[1], &path[2]]
}

fn text<T>(
    r: &mut Reader,
    path: &[String; 3],
    default: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    show: impl Fn(&T) -> String,
) -> (T, String) {
    r.text(&refs(path), default, parse, show)
}

fn features(r: &mut Reader, path: &[String; 3]) -> Vec<Feature> {
    let (names, origin) = r.list(&refs(path), &["mean"]);
    let mut features = Vec::new();
    for name in &names {
        match name.parse::<Feature>() {
            Ok(f) if features.contains(&f) => {
                r.mistake(&refs(path), &format!("`{f}` is there twice"), &origin)
            }
            Ok(f) => features.push(f),
            Err(what) => r.mistake(&refs(path), &what, &origin),
        }
    }
    if names.is_empty() {
        r.mistake(&refs(path), "at least one feature is needed", &origin);
    }
    features
}

fn catch_up(text: &str) -> Result<CatchUp, String> {
    match text {
        "all" => Ok(CatchUp::All),
        "latest" => Ok(CatchUp::Latest),
        "none" => Ok(CatchUp::None),
        other => Err(format!("`{other}` is none of `all`, `latest`, `none`")),
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
