use super::*;
use clap::ValueEnum;
use std::collections::HashSet;

#[test]
fn a_seed_is_one_course_of_events() {
    for seed in 0..20 {
        let [one, two] = [(); 2].map(|()| simulate(seed, None, &Parts::light(), true));
        assert_eq!(one.trace, two.trace, "seed {seed}");
        assert_eq!(one.interleaving, two.interleaving);
    }
}

#[test]
fn many_seeds_end_as_the_oracle_says() {
    let mut courses = HashSet::new();
    for seed in 0..300 {
        let course = simulate(seed, None, &Parts::light(), false);
        assert_eq!(course.failure, None, "seed {seed}");
        courses.insert(course.interleaving);
    }
    assert!(courses.len() > 290, "{} courses", courses.len());
}

#[test]
fn mistakes_made_on_purpose_are_found() {
    for mutant in Mutant::value_variants() {
        let found =
            (0..1_000).find(|seed| simulate(*seed, Some(*mutant), &Parts::light(), false).failure.is_some());
        assert!(found.is_some(), "{mutant:?} is not found within 1,000 seeds");
    }
}
