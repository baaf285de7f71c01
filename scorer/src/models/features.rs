//! Whether a set's models take what schedules score: columns by name and in order, not by number alone.
//!
//! One set is active for all schedules. Schedules with other features than it has wait until one is active that fits them.

use super::{ModelError, Result};
use fleetscore_schemas::window::Feature;
use fleetscore_store::{ScheduleRow, ScheduleSpec, Store};

/// What is wrong with scoring a schedule by a set with these features, in words; `None` where they fit.
pub fn misfit(version: i64, features: &[String], schedule: &ScheduleSpec) -> Option<String> {
    (!takes(features, &schedule.features)).then(|| {
        format!(
            "model set {version} takes the features {}, and the setting `features` of the schedule `{}` is {}: {MEND}",
            features.join(", "),
            schedule.name,
            listed(&schedule.features)
        )
    })
}

/// Whether models of these features, by name and in order, take what is given.
fn takes(features: &[String], given: &[Feature]) -> bool {
    features.iter().map(String::as_str).eq(given.iter().map(|f| f.as_str()))
}

/// What to do about it.
pub(crate) const MEND: &str = "activate a set that was made for these features, or change the setting";

/// Features as a set's row and manifest have them.
pub(super) fn names(features: &[Feature]) -> Vec<String> {
    features.iter().map(ToString::to_string).collect()
}

/// Features as a list in words.
pub(crate) fn listed(features: &[Feature]) -> String {
    features.iter().map(|f| f.as_str()).collect::<Vec<_>>().join(", ")
}

/// Asked before a set becomes active, or series are pinned to it: which schedules it does not fit, in words, if there are
/// others.
///
/// # Errors
/// [`ModelError::Usage`] where there are schedules and it fits none of them: nothing would be scored by it.
pub async fn check_activation(store: &dyn Store, features: &[String]) -> Result<Vec<String>> {
    judge(features, &store.schedules().await?)
}

fn judge(features: &[String], schedules: &[ScheduleRow]) -> Result<Vec<String>> {
    let others = schedules.iter().map(|s| &s.spec).filter(|s| !takes(features, &s.features));
    let others: Vec<&ScheduleSpec> = others.collect();
    let set = features.join(", ");
    if others.is_empty() || others.len() < schedules.len() {
        let unfit = |s: &&ScheduleSpec| {
            let (name, wanted) = (&s.name, listed(&s.features));
            format!("the features of schedule `{name}` are {wanted}, and the set's are {set}")
        };
        return Ok(others.iter().map(unfit).collect());
    }
    let wanted: Vec<String> =
        others.iter().map(|s| format!("those of `{}` are {}", s.name, listed(&s.features))).collect();
    Err(ModelError::Usage(format!(
        "the models take the features {set}, and no schedule has these ({}), so that nothing would be scored by them: \
         give the features that they were made for, or first start the scorer with these as the schedule's `features`; \
         a set can also be made without activating it",
        wanted.join("; ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::schedule;
    use fleetscore_schemas::time::Timestamp;
    use fleetscore_store::CatchUp;

    fn row(name: &str, features: &[Feature]) -> ScheduleRow {
        ScheduleRow::new(
            ScheduleSpec { features: features.to_vec(), ..schedule(name, 1, 1, CatchUp::All) },
            Timestamp(0),
        )
    }

    #[test]
    fn a_set_that_fits_no_schedule_is_not_for_activation() {
        let of = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let one = [row("default", &[Feature::Mean])];
        let two = [row("default", &[Feature::Mean]), row("five", &[Feature::Mean, Feature::Max])];
        assert_eq!(judge(&of(&["min"]), &[]).unwrap(), Vec::<String>::new(), "nothing to compare with yet");
        assert_eq!(judge(&of(&["mean"]), &one).unwrap(), Vec::<String>::new());
        let warned = judge(&of(&["mean"]), &two).unwrap();
        assert_eq!(warned.len(), 1);
        assert!(warned[0].contains("`five`") && warned[0].contains("mean, max"), "{warned:?}");
        // The same number, or the same ones in another order, is not the same.
        for features in [&["min"][..], &["max", "mean"], &["mean", "max", "min"]] {
            let e = judge(&of(features), &two).unwrap_err().to_string();
            assert!(e.contains(&format!("take the features {},", features.join(", "))), "{e}");
            assert!(e.contains("those of `default` are mean; those of `five` are mean, max"), "{e}");
        }
        assert_eq!(misfit(3, &of(&["mean"]), &one[0].spec), None);
        let text = misfit(3, &of(&["min"]), &one[0].spec).unwrap();
        assert!(
            text.contains("set 3 takes the features min,") && text.contains("`default` is mean"),
            "{text}"
        );
    }
}
