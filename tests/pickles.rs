//! Hostile and broken pickles are refused by name, nothing of them runs, and the last good set stays active.

use crate::data::{Dataset, reference, seeded};
use crate::scenario::topic;
use fleetscore_harness::database::Database;
use fleetscore_harness::fleetscore::Fleetscore;
use fleetscore_harness::{Servers, Test};
use libtest_mimic::Trial;
use std::path::Path;
use std::sync::Arc;

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let servers = servers.clone();
    vec![Trial::test("pickles::refused", move || refused(&servers, &reference().unwrap_or_else(seeded)))]
}

/// A pickle that calls `module.name(argument)` when it is loaded, in three protocols.
fn calling(module: &str, name: &str, argument: &str) -> Vec<Vec<u8>> {
    let mut p4 = b"\x80\x04".to_vec();
    for text in [module, name] {
        p4.push(0x8c);
        p4.push(text.len() as u8);
        p4.extend_from_slice(text.as_bytes());
    }
    p4.push(0x93); // STACK_GLOBAL
    p4.push(0x8c);
    p4.push(argument.len() as u8);
    p4.extend_from_slice(argument.as_bytes());
    p4.extend_from_slice(b"\x85R."); // TUPLE1 REDUCE STOP
    vec![
        format!("c{module}\n{name}\n(S'{argument}'\ntR.").into_bytes(),
        [
            b"\x80\x02".as_slice(),
            format!("c{module}\n{name}\nU").as_bytes(),
            &[argument.len() as u8],
            argument.as_bytes(),
            b"\x85R.",
        ]
        .concat(),
        p4,
    ]
}

fn refused(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::sqlite(servers);
    let fleetscore = Fleetscore::new(servers, &database, &topic("pickles"));
    fleetscore.run(&["models", "import", &data.models.display().to_string()]);
    let active = |what: &str| -> Result<String, String> {
        let rows = database.rows("SELECT version FROM model_sets WHERE active")?;
        assert_eq!(rows.len(), 1, "{what}: one active set");
        Ok(rows[0][0].clone())
    };
    let good_set = active("at first")?;
    let name = data.numbers.keys().next().expect("a model");
    let file = format!("model_{}_{}", name.0, name.1);
    let good = std::fs::read(data.models.join(&file))?;

    let refuse = |what: &str, bytes: &[u8], words: &[&str]| -> Test {
        let folder = servers.folder("evil");
        std::fs::copy(data.models.join(&file), folder.join("model_other_series"))?;
        std::fs::write(folder.join(&file), bytes)?;
        let message = fleetscore.fail(&["models", "import", &folder.display().to_string()], 1);
        for word in words.iter().chain(&[file.as_str()]) {
            assert!(message.contains(word), "{what}: `{word}` is not in: {message}");
        }
        assert_eq!(active(what)?, good_set, "{what}");
        assert_eq!(database.number("SELECT count(*) FROM model_sets")?, 1, "{what}");
        Ok(())
    };
    let witness = servers.folder("witness").join("executed");
    let touch = format!("touch {}", witness.display());
    for (module, function) in
        [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("subprocess", "call")]
    {
        for pickle in calling(module, function, &touch) {
            refuse(&format!("{module}.{function}"), &pickle, &[&format!("{module}.{function}")])?;
        }
        // The same call hidden behind a good model.
        let hidden = [&good[..good.len() - 1], b"0", &calling(module, function, &touch)[0]].concat();
        refuse("a call behind a model", &hidden, &[&format!("{module}.{function}")])?;
    }
    assert!(!Path::new(&witness).exists(), "nothing was executed");
    for cut in [0, 1, 2, good.len() / 3, good.len() / 2, good.len() - 1] {
        refuse(&format!("cut at {cut}"), &good[..cut], &["offset"])?;
    }
    refuse("no pickle", b"hello, world", &["offset"])?;
    // Another name for the attribute that holds the support vectors: the model has none.
    let mut renamed = good.clone();
    let at = find(&renamed, b"support_vectors_").expect("the attribute's name");
    renamed[at] = b'S';
    refuse("without support vectors", &renamed, &["support_vectors_"])?;
    Ok(())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}
