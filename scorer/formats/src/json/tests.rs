//! Hostile JSON: sizes that would take for ever if any of it were read again and again.

use super::*;

const MODEL: &str = r#"{"kernel":"linear","support_vectors":[1],"dual_coef":[1],"rho":0}"#;

fn read(text: String) -> Models {
    Models::new(text.into(), 64 << 20)
}

/// How many are models, and how many are refused.
fn counts(text: String) -> (usize, usize) {
    let (mut good, mut bad) = (0, 0);
    for found in read(text) {
        *if found.is_ok() { &mut good } else { &mut bad } += 1;
    }
    (good, bad)
}

#[test]
fn lines_that_never_end_are_not_each_read_to_the_end() {
    // If it were quadratic, each of these would be read half a million times, two million bytes on the average.
    const LINES: usize = 500_000;
    for line in ["{\"a\":\n", "{\"a\":[\n", "{\"support_vectors\":\n", "{\"a\":[{},\n", "{\"check\":\n"] {
        let mut models = read(line.repeat(LINES));
        let refused: Vec<Refused> = models.by_ref().map(|m| m.unwrap_err()).collect();
        assert!(!refused.is_empty() && refused.len() <= LINES, "{line}");
        let limit = models.bytes.len() * READ_AGAIN + models.bytes.len();
        assert!(models.again <= limit, "{line}: {} of {} bytes again", models.again, models.bytes.len());
        if models.again > ALWAYS_AGAIN {
            assert!(refused.last().unwrap().to_string().contains("the rest is not looked at"), "{line}");
        }
    }
}

#[test]
fn large_files_of_bad_lines_are_read_to_the_end() {
    const LINES: usize = 100_000;
    for (bad, pretty) in
        [("{\"rho\":NaN}", false), ("{\"kernel\":", false), ("{\"a\":[1,2", true), ("x", false)]
    {
        let good = if pretty { MODEL.replace(",\"", ",\n\"") } else { MODEL.to_owned() };
        let (models, refused) = counts(format!("{good}\n{bad}\n").repeat(LINES));
        assert_eq!(models, LINES, "{bad}");
        assert!(refused == LINES, "{bad}: {refused}");
    }
    // Behind one another on one line, and in an array.
    assert_eq!(counts(MODEL.repeat(LINES)), (LINES, 0));
    assert_eq!(counts(format!("[{}1]", format!("{MODEL},{{\"a\":1}},").repeat(LINES))), (LINES, LINES + 1));
    assert_eq!(counts("{}".repeat(LINES)), (0, LINES));
    assert_eq!(counts("[".repeat(LINES)), (0, 1));
    assert_eq!(counts(format!("[{}", "{\"a\":[".repeat(LINES))), (0, 1));
}

#[test]
fn a_model_has_a_largest_size_wherever_it_stands() {
    let large = MODEL.replace("[1]", &format!("[{}1]", " ".repeat(2000)));
    for (text, good, bad) in [
        (format!("{MODEL}\n{large}\n{MODEL}"), 2, 1),
        (format!("[{MODEL},{large},{MODEL}]"), 1, 1),
        (large.clone(), 0, 1),
    ] {
        let all: Vec<_> = Models::new(text.into(), 1000).collect();
        assert_eq!(all.iter().filter(|m| m.is_ok()).count(), good);
        let refused: Vec<String> = all.into_iter().filter_map(Result::err).map(|e| e.to_string()).collect();
        assert_eq!(refused.len(), bad);
        assert!(refused[0].contains("is larger than a model may be (1000 bytes)"), "{refused:?}");
    }
}

#[test]
fn deep_nesting_is_refused_and_takes_no_stack() {
    let deep = format!("{{\"kernel\":{}1{}}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    assert_eq!(counts(format!("{deep}\n{MODEL}")), (1, 1));
    let deep = format!("{{\"support_vectors\":{}", "{\"a\":".repeat(1 << 20));
    assert_eq!(counts(deep), (0, 1));
}
