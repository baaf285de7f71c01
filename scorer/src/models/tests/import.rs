//! Imports of every format: mapping, lists, reports.

use super::*;
use fleetscore_formats::Format;
use fleetscore_schemas::window::Feature;

const MODEL: &str = r#""kernel":"rbf","gamma":0.5,"support_vectors":[[1]],"dual_coef":[1],"rho":0.5"#;

const MODEL_ALONE: &str = r#"{"kernel":"rbf","gamma":0.5,"support_vectors":[[1]],"dual_coef":[1],"rho":0.5}"#;

fn line(more: &str) -> String {
    format!("{{{MODEL}{}{more}}}\n", if more.is_empty() { "" } else { "," })
}

fn named(device: &str, sensor: &str) -> String {
    line(&format!(r#""device":"{device}","sensor":"{sensor}""#))
}

impl Place {
    fn path(&self, name: &str) -> String {
        self.dir.path().join("in").join(name).display().to_string()
    }

    async fn names(&self, version: i64) -> Vec<String> {
        let rows = self.rows().await;
        let row = rows.iter().find(|r| r.version == version).unwrap();
        let set = load(&self.blobs, &self.store, row).await.unwrap();
        let mut names: Vec<String> = set.entries().map(|e| format!("{} {}", e.name, e.model)).collect();
        names.sort();
        names
    }

    async fn refused(&self, options: &ImportOptions) -> Vec<(String, String)> {
        match self.import(options).await {
            Err(ModelError::Refused { refused, .. }) => refused,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_folder_of_every_format_is_one_set() {
    let p = Place::new().await;
    p.fixture("model_a_1", "1.2_rbf_p3.pkl");
    p.fixture("model_a_2.joblib", "compressed.zlib.joblib");
    p.fixture("model_a_3.onnx", "bare.onnx");
    p.file("model_a_4.json", line("").as_bytes());
    p.file("many.jsonl", (named("b", "1") + &line(r#""device":"b","sensor":2,"name":"mine""#)).as_bytes());
    p.file("notes.txt", b"{\"x\": 1}");
    p.file("other", b"nothing");
    let report = p.import(&p.options()).await.unwrap();
    assert_eq!((report.imported, report.single_precision, report.refused.len()), (6, 1, 0));
    let formats: Vec<(Format, usize)> = report.formats.into_iter().collect();
    assert_eq!(formats, [(Format::Pickle, 1), (Format::Joblib, 1), (Format::Onnx, 1), (Format::Json, 3)]);
    assert_eq!(report.skipped.len(), 2);
    assert!(report.skipped[0].1.contains("no file of models by its name"), "{:?}", report.skipped);
    assert!(report.skipped[1].1.contains("begins as no file of models does"), "{:?}", report.skipped);
    let names = p.names(report.version).await;
    assert_eq!(
        names,
        ["a/1 model_a_1", "a/2 model_a_2", "a/3 model_a_3", "a/4 model_a_4", "b/1 model_b_1", "b/2 mine"]
    );
    let row = p.rows().await.remove(0);
    assert_eq!(verify(&p.blobs, &row).await.unwrap().problems, Vec::<String>::new());
}

#[tokio::test]
async fn plain_numbers_and_their_check_vectors_are_imported() {
    let p = Place::new().await;
    for file in ["models.jsonl", "models.parquet"] {
        p.fixture(file, file);
        let options = ImportOptions { sources: vec![p.path(file)], allow_partial: true, ..p.options() };
        let report = p.import(&options).await.unwrap();
        // Four of eight take two features.
        assert_eq!((report.imported, report.refused.len()), (4, 4), "{:?}", report.refused);
        assert!(report.refused[0].1.contains("takes 2 features, and 1 are given (mean)"));
        let row = p.rows().await.remove(0);
        let verified = verify(&p.blobs, &row).await.unwrap();
        assert_eq!((verified.scored, verified.problems), (4, vec![]));
    }
    let text = std::fs::read_to_string(data().join("models.jsonl")).unwrap();
    let first = text.lines().next().unwrap();
    p.file("bad.jsonl", format!("{first}\n").replace("\"decision\": [", "\"decision\": [1").as_bytes());
    let refused = p.refused(&ImportOptions { sources: vec![p.path("bad.jsonl")], ..p.options() }).await;
    assert_eq!(refused[0].0, p.path("bad.jsonl#1"));
    assert!(refused[0].1.contains("check row 0 gives"), "{refused:?}");
}

#[tokio::test]
async fn what_a_file_says_goes_before_its_name_and_a_list_says_the_rest() {
    let p = Place::new().await;
    p.file("model_x_y.json", named("a", "b").as_bytes());
    let report = p.import(&p.options()).await.unwrap();
    assert_eq!(p.names(report.version).await, ["a/b model_a_b"]);
    // By a list, under names of no pattern; the paths are relative to the list.
    p.fixture("one.bin", "1.2_rbf_p3.pkl");
    p.fixture("two", "1.9_rbf_p4.pkl");
    p.file("list.csv", b"sensor,device,path\ns1,d,one.bin\ns2,d,two\n");
    let listed = |name: &str| ImportOptions { sources: vec![], lists: vec![p.path(name)], ..p.options() };
    let report = p.import(&listed("list.csv")).await.unwrap();
    assert_eq!(p.names(report.version).await, ["d/s1 one.bin", "d/s2 two"]);
    // Lines without series: by the pattern.
    p.fixture("model_d_s3.pkl", "1.9_rbf_p4.pkl");
    p.file("list.txt", b"model_d_s3.pkl\nmodel_x_y.json\n");
    let report = p.import(&listed("list.txt")).await.unwrap();
    assert_eq!(p.names(report.version).await, ["a/b model_a_b", "d/s3 model_d_s3"]);
    // A list of blob URLs.
    let folder = p.dir.path().join("in");
    let url = format!("path,device,sensor\nfile://{}/two,d,s4\n", folder.display());
    p.file("urls.csv", url.as_bytes());
    let report = p.import(&listed("urls.csv")).await.unwrap();
    assert_eq!(p.names(report.version).await, ["d/s4 two"]);
    // What is wrong with a list is said with its line; files are refused as others are.
    p.file("bad.csv", b"path,device,sensor\ntwo,d,\n");
    assert!(p.import(&listed("bad.csv")).await.unwrap_err().to_string().contains("line 2"));
    p.file("gone.csv", b"path,device,sensor\ngone,d,s\nmodel_x_y.json,d,s2\none.bin,d,s3\n");
    let refused = p.refused(&listed("gone.csv")).await;
    let texts: Vec<String> = refused.iter().map(|(path, why)| format!("{path} {why}")).collect();
    assert_eq!(refused.len(), 2, "{texts:?}");
    assert!(texts.iter().any(|t| t.contains("in/gone cannot be read")), "{texts:?}");
    assert!(texts.iter().any(|t| t.contains("says that it is for a/b, and the list that it is for d/s2")));
    assert!(p.import(&listed("absent.csv")).await.unwrap_err().to_string().contains("absent.csv"));
}

#[tokio::test]
async fn entries_of_one_file_are_refused_by_their_place() {
    let p = Place::new().await;
    let text = [
        named("a", "1"),
        named("a", "1"),
        line(""),
        named("a", "2").replace("0.5,", "-1,"),
        named("a", "3"),
        named("\\u0000", "3"),
        "{broken\n".into(),
        named("a", "4"),
    ]
    .concat();
    p.file("m.jsonl", text.as_bytes());
    p.fixture("model_a_3", "1.2_rbf_p3.pkl");
    let refused = p.refused(&p.options()).await;
    let place = |n: u32| p.path(&format!("m.jsonl#{n}"));
    let of = |path: String| refused.iter().find(|(p, _)| *p == path).map_or("", |(_, why)| why);
    assert!(of(place(1)).contains(&format!("is for a/1, and so is {}", place(2))), "{refused:?}");
    assert!(of(place(2)).contains(&format!("is for a/1, and so is {}", place(1))));
    assert!(of(place(3)).contains("names no device and sensor"));
    assert!(of(place(4)).contains("gamma is -1"));
    assert!(of(place(5)).contains("model_a_3"));
    assert!(of(place(6)).contains("no name of a device"));
    assert!(of(place(7)).contains("cannot be read") && of(place(7)).contains("line 7"));
    assert!(of(p.path("model_a_3")).contains("m.jsonl#5"));
    let report = p.import(&ImportOptions { allow_partial: true, ..p.options() }).await.unwrap();
    assert_eq!((report.imported, report.refused.len()), (1, 8));
    let rows = p.rows().await;
    assert_eq!((rows[0].models, rows[0].refused), (1, 3));
}

#[tokio::test]
async fn features_that_a_file_names_must_be_those_given() {
    let p = Place::new().await;
    p.fixture("model_a_1.joblib", "named.joblib");
    let two = |names: [Feature; 2]| ImportOptions { features: names.to_vec(), ..p.options() };
    let refused = p.refused(&two([Feature::Stddev, Feature::Mean])).await;
    assert!(
        refused[0].1.contains("takes the features mean, stddev, and stddev, mean are given"),
        "{refused:?}"
    );
    p.import(&two([Feature::Mean, Feature::Stddev])).await.unwrap();
    p.file("x.json", line(r#""device":"b","sensor":"c","features":["humidity"]"#).as_bytes());
    let options = ImportOptions { sources: vec![p.path("x.json")], ..p.options() };
    assert!(p.refused(&options).await[0].1.contains("takes the features humidity, and mean are given"));
}

#[tokio::test]
async fn many_models_of_one_file_keep_their_order_and_number() {
    let p = Place::new().await;
    let text: String = (0..10_000).map(|i| named(&format!("d{i:05}"), "s")).collect();
    p.file("m.jsonl", text.as_bytes());
    let report = p.import(&p.options()).await.unwrap();
    assert_eq!((report.imported, report.formats[&Format::Json]), (10_000, 10_000));
    let names = p.names(report.version).await;
    assert!(names.iter().enumerate().all(|(i, n)| *n == format!("d{i:05}/s model_d{i:05}_s")));
}

fn fixture_of(name: &str) -> Vec<u8> {
    std::fs::read(data().join(name)).unwrap()
}

/// Each of these lies beside a good model in a folder, and none of them may be passed over.
#[tokio::test]
async fn what_may_be_a_model_and_is_none_stops_the_import_of_a_folder() {
    let table = fixture_of("models.parquet");
    let lines = fixture_of("models.jsonl");
    for (name, bytes, wanted) in [
        ("models.parquet", &table[..table.len() / 2], "no sound Parquet"),
        ("models.parquet", b"", "no sound Parquet"),
        ("models", &table[..100], "no sound Parquet"),
        ("models.json", b"{\"x\": 1}", "unknown field `x`"),
        ("models.json", MODEL_ALONE.as_bytes(), "names no device and sensor"),
        ("models.jsonl", b"", "holds no model"),
        ("models.json", b"[]", "holds no model"),
        ("all", &lines[..lines.len() - 9], "EOF while parsing"),
        ("rest.bak", &fixture_of("1.9_rbf_p5.pkl"), "and it is pickle: rename it, or name its series"),
        ("old", &fixture_of("1.2_rbf_p0.pkl"), "and it is pickle"),
        ("packed", &fixture_of("compressed.gzip.joblib"), "and it is joblib"),
        ("graph", &fixture_of("rbf.onnx"), "and it is onnx"),
        ("a.onnx", b"nothing", "not of the pattern"),
        ("model_a_2.txt", b"\x80\x04notes", "offset"),
        ("model_a_2", b"", "offset 0"),
    ] {
        let p = Place::new().await;
        p.fixture("model_a_1", "1.2_rbf_p3.pkl");
        p.file(name, bytes);
        let before = p.everything().await;
        let refused = p.refused(&p.options()).await;
        let said = refused.iter().any(|(path, why)| path.starts_with(&p.path(name)) && why.contains(wanted));
        assert!(said, "{name}: {refused:?}");
        assert_eq!(p.everything().await, before);
        let report = p.import(&ImportOptions { allow_partial: true, ..p.options() }).await.unwrap();
        assert!(report.imported >= 1 && !report.refused.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_stored_or_shown_costs_its_own_model_alone() {
    let p = Place::new().await;
    let long = format!(r#""device":"b","sensor":"1","name":"{}""#, "x".repeat(1100));
    let strange = r#""device":"b","sensor":"2","name":"a\u001b[31mb""#;
    p.file("many.jsonl", (named("a", "1") + &line(&long) + &line(strange)).as_bytes());
    let refused = p.refused(&p.options()).await;
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused.iter().all(|(path, why)| path.contains("many.jsonl#") && why.contains("has a name")));
    let report = p.import(&ImportOptions { allow_partial: true, ..p.options() }).await.unwrap();
    assert_eq!((report.imported, report.refused.len()), (1, 2));
    // What became of each series can be looked up by its name.
    let failures = p.store.model_failures(report.version).await.unwrap();
    let series: Vec<String> = failures.iter().map(|f| f.series.as_ref().unwrap().to_string()).collect();
    assert_eq!(series, ["b/1", "b/2"]);
}

#[tokio::test]
async fn what_is_plainly_something_else_is_skipped_and_told() {
    let p = Place::new().await;
    p.fixture("model_a_1", "1.2_rbf_p3.pkl");
    let packed = {
        let mut text = vec![0x1f, 0x8b];
        text.extend_from_slice(b"not gzip, whatever it says");
        text
    };
    let others: [(&str, &[u8]); 10] = [
        ("README", b"{}"),
        ("model_a_1.sha256", b"0a1b"),
        ("model_a_1.csv", b"x,y"),
        ("LICENSE.txt", b""),
        ("notes.csv", b"a,b"),
        ("_SUCCESS", b""),
        (".DS_Store", b"PAR1"),
        ("empty", b""),
        ("data.csv.gz", &packed),
        ("weights.bin", b"\x00\x01\x02"),
    ];
    others.iter().for_each(|(name, bytes)| p.file(name, bytes));
    let report = p.import(&p.options()).await.unwrap();
    assert_eq!((report.imported, report.refused.len()), (1, 0), "{:?}", report.refused);
    let mut skipped: Vec<String> = report.skipped.iter().map(|(path, _)| path.clone()).collect();
    let mut wanted = others.map(|(name, _)| p.path(name));
    skipped.sort();
    wanted.sort();
    assert_eq!(skipped, wanted);
}

#[tokio::test]
#[cfg(unix)]
async fn a_file_that_may_not_be_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let p = Place::new().await;
    p.fixture("model_a_1", "1.2_rbf_p3.pkl");
    for name in ["many.parquet", "other"] {
        p.file(name, b"x");
        std::fs::set_permissions(p.path(name), std::fs::Permissions::from_mode(0o000)).unwrap();
        // Root reads everything.
        if std::fs::read(p.path(name)).is_err() {
            let refused = p.refused(&p.options()).await;
            assert!(refused[0].0 == p.path(name) && refused[0].1.contains("cannot be read: "), "{refused:?}");
        }
        std::fs::remove_file(p.path(name)).unwrap();
    }
    // What cannot be looked at, whoever looks.
    std::os::unix::fs::symlink(p.path("gone"), p.path("other")).unwrap();
    let refused = p.refused(&p.options()).await;
    assert!(refused[0].0 == p.path("other") && refused[0].1.contains("cannot be read: "), "{refused:?}");
}

/// Not under the name that it shows, which another file may have as well.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_name_that_is_not_utf_8_is_for_no_series() {
    use std::os::unix::ffi::OsStrExt;
    let p = Place::new().await;
    p.fixture("model_a_1", "1.2_rbf_p3.pkl");
    let strange = std::path::PathBuf::from(p.path("")).join(std::ffi::OsStr::from_bytes(b"model_a_\xff"));
    std::fs::write(strange, fixture_of("1.2_rbf_p3.pkl")).unwrap();
    assert!(p.refused(&p.options()).await[0].1.contains("not UTF-8"));
    let report = p.import(&ImportOptions { allow_partial: true, ..p.options() }).await.unwrap();
    assert_eq!((report.imported, report.refused.len()), (1, 1));
    assert_eq!(p.names(report.version).await, ["a/1 model_a_1"]);
}

#[tokio::test]
async fn a_list_may_name_a_file_twice_and_one_of_its_own_folder() {
    let p = Place::new().await;
    p.fixture("one.bin", "1.2_rbf_p3.pkl");
    p.fixture("model_a_b", "1.9_rbf_p4.pkl");
    // The same model for two series, one of them twice; the folder itself is imported, too.
    p.file("list.csv", b"path,device,sensor\none.bin,d,1\n./one.bin,d,2\none.bin,d,1\n");
    let options = ImportOptions { lists: vec![p.path("list.csv")], ..p.options() };
    let report = p.import(&options).await.unwrap();
    assert_eq!(p.names(report.version).await, ["a/b model_a_b", "d/1 one.bin", "d/2 one.bin"]);
    assert!(
        report.skipped.iter().any(|(path, why)| *path == p.path("one.bin") && why.contains("more than once"))
    );
    // Its name alone says nothing of its series, and the folder alone does not import.
    assert!(p.refused(&p.options()).await[0].1.contains("name its series in a list"));
    // What a list names and is not there is refused; what names nothing is an error.
    p.file("gone.txt", b"model_x_y\nmodel_a_b\n");
    let listed = |name: &str| ImportOptions { sources: vec![], lists: vec![p.path(name)], ..p.options() };
    let refused = p.refused(&listed("gone.txt")).await;
    assert!(refused.len() == 1 && refused[0].0 == p.path("model_x_y"), "{refused:?}");
    let report = p.import(&ImportOptions { allow_partial: true, ..listed("gone.txt") }).await.unwrap();
    assert_eq!((report.imported, report.refused.len()), (1, 1));
    p.file("empty.txt", b"# nothing\n");
    assert!(p.import(&listed("empty.txt")).await.unwrap_err().to_string().contains("names no file"));
    p.file("latin.txt", b"model_\xe4_b\n");
    assert!(p.import(&listed("latin.txt")).await.unwrap_err().to_string().contains("UTF-8"));
}

#[tokio::test]
async fn one_series_in_several_files_of_many_is_refused_everywhere() {
    let p = Place::new().await;
    p.file("a.jsonl", (named("d", "1") + &named("d", "2")).as_bytes());
    p.file("b.jsonl", (named("d", "3") + &named("d", "1")).as_bytes());
    p.file("model_d_1.json", line("").as_bytes());
    let refused: Vec<String> = p.refused(&p.options()).await.into_iter().map(|(path, _)| path).collect();
    assert_eq!(refused, [p.path("a.jsonl#1"), p.path("b.jsonl#2"), p.path("model_d_1.json#1")]);
    let report = p.import(&ImportOptions { allow_partial: true, ..p.options() }).await.unwrap();
    assert_eq!((report.imported, report.refused.len()), (2, 3));
    let row = p.rows().await.remove(0);
    assert_eq!((row.models, row.refused), (2, 1));
    assert_eq!(verify(&p.blobs, &row).await.unwrap().problems, Vec::<String>::new());
}

#[tokio::test]
async fn more_entries_than_anyone_reads_are_counted() {
    let p = Place::new().await;
    p.file("m.jsonl", (named("d", "1") + &"{}\n".repeat(5000)).as_bytes());
    let refused = p.refused(&p.options()).await;
    assert_eq!(refused.len(), 1001);
    let (path, why) = refused.last().unwrap();
    assert!(*path == p.path("m.jsonl") && why.contains("4000 more entries that are refused"), "{why}");
    // Entries for series, in a file of more than are allowed.
    let text: String = (0..200).map(|i| named(&format!("{i}"), "s")).collect();
    p.file("m.jsonl", text.as_bytes());
    let e = p.import(&ImportOptions { max_series: 100, ..p.options() }).await.unwrap_err().to_string();
    assert!(e.contains("`max_series`") && e.contains("100"), "{e}");
}

#[tokio::test]
async fn many_small_files_are_one_set() {
    let p = Place::new().await;
    let text = line("");
    for i in 0..5000 {
        p.file(&format!("model_{i:04}_s.json"), text.as_bytes());
    }
    let report = p.import(&p.options()).await.unwrap();
    assert_eq!((report.imported, report.refused.len(), report.skipped.len()), (5000, 0, 0));
    assert_eq!(p.names(report.version).await[4999], "4999/s model_4999_s");
}
