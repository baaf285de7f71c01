use super::*;
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::Schema;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap()
}

fn one(name: &str) -> Found {
    let mut models = read(&fixture(name), name).unwrap_or_else(|e| panic!("{name} {e}"));
    assert_eq!(models.len(), 1, "{name}");
    models.remove(0).unwrap()
}

fn numbers(v: &serde_json::Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The worst difference to what was recorded, relative to the tolerance's own measure.
fn worst(found: &Found, rows: &[Vec<f64>], decisions: &[f64]) -> f64 {
    let m = &found.model;
    let scale = m.dual_coef.iter().map(|c| c.abs()).sum::<f64>() + m.rho.abs();
    rows.iter()
        .zip(decisions)
        .map(|(x, d)| (m.decision(x) - d).abs() / scale.max(d.abs()))
        .fold(0.0, f64::max)
}

#[test]
fn every_fixture_scores_as_scikit_learn_and_onnxruntime_do() {
    let plain: serde_json::Value = serde_json::from_slice(&fixture("plain.json")).unwrap();
    let (mut exact, mut single) = (0, 0);
    for (name, said) in plain.as_object().unwrap() {
        let rows: Vec<Vec<f64>> = said["rows"].as_array().unwrap().iter().map(numbers).collect();
        if name.starts_with("refused") || name.contains("bz2") || name.contains("xz") {
            assert!(read(&fixture(name), name).is_err(), "{name}");
            continue;
        }
        let found = one(name);
        assert_eq!(found.single_precision, name.ends_with(".onnx"), "{name}");
        let tolerance = if found.single_precision { 2e-6 } else { 1e-14 };
        let off = worst(&found, &rows, &numbers(&said["decisions"]));
        assert!(off <= tolerance, "{name}: {off:e}");
        if let Some(theirs) = said.get("onnxruntime") {
            let off = worst(&found, &rows, &numbers(theirs));
            assert!(off <= 2e-6, "{name} and onnxruntime: {off:e}");
            single += 1;
        } else {
            exact += 1;
        }
    }
    assert!(exact >= 4 && single >= 8, "{exact} {single}");
}

#[test]
fn the_snippets_of_the_documentation_write_what_is_read() {
    let lines = read(&fixture("models.jsonl"), "models.jsonl").unwrap();
    let rows = read(&fixture("models.parquet"), "models.parquet").unwrap();
    assert_eq!((lines.len(), rows.len()), (8, 8));
    for (i, (line, row)) in lines.into_iter().zip(rows).enumerate() {
        let (line, row) = (line.unwrap(), row.unwrap());
        assert_eq!(line, row);
        assert_eq!((line.checks.len(), line.rows, line.entry), (3, Some(60), Some(i as u64 + 1)));
        line.verify().unwrap();
        // A check that is off by more than rounding is refused with its numbers.
        let mut bad = line.clone();
        bad.checks[1].1 += 1e-3;
        let e = bad.verify().unwrap_err();
        assert!(matches!(e.why, Why::Check { row: 1, .. }), "{e}");
        assert!(e.to_string().contains(&bad.checks[1].1.to_string()) && e.device == bad.device, "{e}");
        let mut misread = line.clone();
        misread.model.rho += 1e-5;
        assert!(misread.verify().is_err());
        misread.checks.clear();
        misread.verify().unwrap();
    }
}

#[test]
fn columns_of_a_data_frame_are_named() {
    let wanted = Some(vec!["mean".to_owned(), "stddev".to_owned()]);
    for name in ["named.pkl", "named.joblib", "columns.onnx"] {
        assert_eq!(one(name).features, wanted, "{name}");
    }
    assert_eq!(one("rbf.onnx").features, None);
}

#[test]
fn a_float32_model_is_not_held_to_the_tolerance_of_doubles() {
    let plain: serde_json::Value = serde_json::from_slice(&fixture("plain.json")).unwrap();
    let mut found = one("rbf.onnx");
    let rows = plain["rbf.onnx"]["rows"].as_array().unwrap().iter().map(numbers);
    found.checks = rows.zip(numbers(&plain["rbf.onnx"]["decisions"])).collect();
    found.verify().unwrap();
    found.single_precision = false;
    assert!(found.verify().is_err());
    found.single_precision = true;
    found.checks[0].1 += 0.01;
    assert!(found.verify().unwrap_err().to_string().contains("float32"));
}

#[test]
fn nan_never_passes_a_check() {
    let mut found = one("compressed.zlib.joblib");
    for (x, decision) in [(vec![1.0], f64::NAN), (vec![f64::NAN], 0.0), (vec![1.0, 2.0], 0.0), (vec![], 0.0)]
    {
        found.checks = vec![(x, decision)];
        assert!(found.verify().is_err());
    }
}

fn why(bytes: &[u8], name: &str) -> String {
    match read(bytes, name) {
        Err(e) => e.to_string(),
        Ok(models) => models.into_iter().find_map(Result::err).expect("something is refused").to_string(),
    }
}

#[test]
fn other_files_are_named() {
    for (bytes, name, wanted) in [
        (fixture("compressed.bz2.joblib"), "x.joblib", "compressed (bzip2)"),
        (fixture("compressed.xz.joblib"), "x.joblib", "compressed (xz)"),
        (b"PK\x03\x04".to_vec(), "x", "a zip archive"),
        (b"ZF0x78".to_vec(), "x.pkl", "a joblib before 0.10"),
        (b"hello, world".to_vec(), "x", "offset"),
        (vec![], "x", "offset 0"),
        (vec![], "x.onnx", "there is no graph"),
        (vec![], "x.parquet", "no sound Parquet"),
        (b"PAR1".to_vec(), "x", "no sound Parquet"),
        (fixture("refused_pca.onnx"), "x.onnx", "before the SVM"),
        (fixture("refused_svc.onnx"), "x", "SVMClassifier"),
        (fixture("refused_svr.onnx"), "x", "it is a regression"),
    ] {
        let text = why(&bytes, name);
        assert!(text.contains(wanted), "{wanted}: {text}");
        assert!(
            text.contains("dump(")
                == (wanted.contains("compressed") || wanted.contains("zip") || wanted.contains("joblib")),
            "{text}"
        );
    }
}

#[test]
fn bombs_are_not_unpacked() {
    let packed = |bytes: &[u8]| {
        let mut out = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::best());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    };
    let bomb = packed(&vec![0; 64 << 20]);
    assert!(matches!(read(&bomb, "x"), Err(FormatError::Bomb { limit, .. }) if limit < 8 << 20));
    // Repetitive, but small.
    let small = packed(&[fixture("1.9_rbf_p4.pkl"), vec![0; 1 << 19]].concat());
    assert!(read(&small, "x").unwrap()[0].is_ok());
    assert!(why(&packed(&small), "x").contains("more than once"));
    assert!(why(&packed(b"{}"), "x").contains("compressed JSON"));
    assert!(why(&packed(&fixture("compressed.bz2.joblib")), "x").contains("bzip2"));
    let good = fixture("compressed.gzip.joblib");
    for end in 2..good.len() {
        assert!(read(&good[..end], "x").is_err(), "{end}");
    }
}

const MODEL: &str =
    r#"{"kernel":"rbf","gamma":0.5,"support_vectors":[[1,2],[3,4]],"dual_coef":[1,0.5],"rho":0.25}"#;

#[test]
fn json_is_one_model_an_array_or_lines() {
    let pretty =
        serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(MODEL).unwrap()).unwrap();
    for (text, count) in [
        (MODEL.to_owned(), 1),
        (format!("\u{feff} {pretty}\n"), 1),
        (format!("{pretty}\n{pretty}"), 2),
        (format!("{MODEL}\r\n\n{MODEL}\n{MODEL}\n"), 3),
        (format!("[{MODEL} ,\n{MODEL}]"), 2),
        ("[ ]".into(), 0),
        (MODEL.replace("[[1,2],[3,4]]", "[1,2,3,4]").replace("[1,0.5]", "[[1,0.5]]"), 1),
        (MODEL.replace(r#""rho":0.25"#, r#""intercept":[-0.25],"device":7,"sensor":"s","mean":null"#), 1),
    ] {
        let models = read(text.as_bytes(), "m.json").unwrap();
        assert_eq!(models.len(), count, "{text}");
        for found in models {
            let found = found.unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(found.model.support_vectors, [1.0, 2.0, 3.0, 4.0]);
            assert_eq!((found.model.rho, &found.model.dual_coef[..]), (0.25, &[1.0, 0.5][..]));
            assert!(found.device.is_none_or(|d| d == "7"));
        }
    }
}

#[test]
fn a_bad_line_leaves_its_neighbours_alone() {
    let lines = [
        MODEL,
        r#"{"kernel":"rbf","device":"a","sensor":"b","rho":1}"#,
        r#"{"kernel":"rbf","gama":1}"#,
        MODEL,
        r#"{"kernel":"#,
        r#"{"rho":NaN}"#,
        "hello",
        MODEL,
        r#"{"support_vectors":[[1],[2,3]]}"#,
        r#"{"support_vectors":[[1],2]}"#,
        r#"{"rho":[1,2]}"#,
        MODEL,
    ];
    let text = lines.join("\n");
    let models = read(text.as_bytes(), "x.jsonl").unwrap();
    assert_eq!(models.iter().filter(|m| m.is_ok()).count(), 4);
    let refused: Vec<Refused> = models.into_iter().filter_map(Result::err).collect();
    let texts: Vec<String> = refused.iter().map(ToString::to_string).collect();
    for (text, wanted) in texts.iter().zip([
        "`dual_coef` is missing",
        "unknown field `gama`",
        "(line 6,",
        "(line 6,",
        "row 1 has 2 numbers",
        "number between rows",
        "2 numbers instead of one (line 11",
    ]) {
        assert!(text.contains(wanted), "{wanted}: {texts:#?}");
    }
    assert_eq!(refused[0].device.as_deref(), Some("a"));
    assert_eq!((refused[0].entry, refused.len()), (Some(2), 7), "{texts:#?}");
}

#[test]
fn a_bad_element_of_an_array_leaves_its_neighbours_alone() {
    let read = |text: String| read(text.as_bytes(), "x").unwrap();
    let models = read(format!(r#"[{MODEL}, {{"x":[{{}}]}}, 1, null, {MODEL}]"#));
    assert_eq!(models.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false, false, true]);
    for bad in [
        format!("[{MODEL},"),
        format!("[{MODEL}"),
        format!("[{MODEL}]x"),
        format!("[{MODEL} {MODEL}]"),
        "[".into(),
    ] {
        let models = read(bad.clone());
        assert!(models.last().unwrap().is_err(), "{bad}");
        assert!(models.len() <= 2, "{bad}");
    }
}

#[test]
fn wrong_fields_are_named() {
    let with = |from: &str, to: &str| why(MODEL.replace(from, to).as_bytes(), "x.json");
    for (from, to, wanted) in [
        ("\"rbf\"", "\"rbg\"", "`kernel` is 'rbg'"),
        ("0.5,\"support", "0,\"support", "gamma is 0"),
        ("[1,0.5]", "[]", "`dual_coef` is empty"),
        ("[1,0.5]", "[1,1,1]", "`support_vectors` has 2 rows"),
        ("\"rho\":0.25", "\"x\":1", "unknown field"),
        ("\"rho\":0.25", "\"rows\":1", "`rho` is missing, and so is `intercept`"),
        ("\"rho\":0.25", "\"rho\":1,\"intercept\":1", "beside `intercept`"),
        ("\"rho\":0.25", "\"rho\":1,\"device\":\"a\"", "`sensor` is missing"),
        ("\"rho\":0.25", "\"rho\":1,\"features\":[\"mean\"]", "`features` names 1"),
        ("\"rho\":0.25", "\"rho\":1e999", "number out of range"),
        ("\"rho\":0.25", "\"rho\":1,\"scale\":[1,0]", "scale[1] is 0"),
        ("\"rho\":0.25", "\"rho\":1,\"mean\":[1]", "mean has 1 values"),
        (
            "\"rho\":0.25",
            "\"rho\":1,\"check\":{\"x\":[[1]],\"decision\":[1]}",
            "`check` has 1 numbers in 1 rows",
        ),
        ("\"rho\":0.25", "\"rho\":1,\"check\":{\"x\":[[1,2]],\"decision\":[]}", "`check` has"),
        ("\"kernel\":\"rbf\"", "\"kernel\":\"poly\",\"degree\":2.5", "`degree` is 2.5"),
        ("\"gamma\":0.5", "\"gamma\":\"scale\"", "invalid type: string"),
    ] {
        let text = with(from, to);
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

/// The Parquet fixture with a column changed.
fn changed(name: &str, to: impl Fn(&ArrayRef) -> Option<(String, ArrayRef)>) -> Vec<u8> {
    let bytes = Bytes::from(fixture("models.parquet"));
    let batch =
        ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap().next().unwrap().unwrap();
    let columns = batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .filter_map(|(f, c)| if f.name() == name { to(c) } else { Some((f.name().clone(), c.clone())) })
        .collect::<Vec<_>>();
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, Arc::new(Schema::clone(&batch.schema())), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

fn cast_to(to: arrow::datatypes::DataType) -> impl Fn(&ArrayRef) -> Option<(String, ArrayRef)> {
    move |c| Some(("device".into(), arrow::compute::cast(c, &to).unwrap()))
}

#[test]
fn parquet_columns_may_be_of_any_type_that_fits() {
    use arrow::datatypes::{DataType, Field};
    let good = read(&fixture("models.parquet"), "x").unwrap();
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    for device in [DataType::LargeUtf8, dictionary, DataType::Utf8View] {
        assert_eq!(read(&changed("device", cast_to(device)), "x").unwrap(), good);
    }
    // Lists of rows, and float32.
    let f32s = DataType::LargeList(Arc::new(Field::new("item", DataType::Float32, true)));
    let single = changed("support_vectors", |c| {
        Some(("support_vectors".into(), arrow::compute::cast(c, &f32s).unwrap()))
    });
    for found in read(&single, "x").unwrap() {
        let found = found.unwrap();
        assert!(found.single_precision);
        found.verify().unwrap();
    }
    let nested = changed("check_x", |c| {
        let rows = c.as_list::<i32>();
        let mut builder = arrow::array::ListBuilder::new(arrow::array::ListBuilder::new(
            arrow::array::Float64Builder::new(),
        ));
        for row in rows.iter() {
            let row = row.unwrap();
            let values = row.as_primitive::<arrow::datatypes::Float64Type>().values();
            for x in values.chunks(values.len() / 3) {
                builder.values().values().append_slice(x);
                builder.values().append(true);
            }
            builder.append(true);
        }
        Some(("check_x".into(), Arc::new(builder.finish()) as ArrayRef))
    });
    assert_eq!(read(&nested, "x").unwrap(), good);
}

#[test]
fn parquet_of_other_columns_is_refused_and_bad_rows_are_not_alone() {
    let missing = why(&changed("dual_coef", |_| None), "x");
    assert!(missing.contains("no column `dual_coef`"), "{missing}");
    let strange = why(&changed("rows", |c| Some(("rovs".into(), c.clone()))), "x");
    assert!(strange.contains("a column `rovs`"), "{strange}");
    let typed = why(
        &changed("gamma", |_| {
            Some(("gamma".into(), Arc::new(arrow::array::StringArray::from(vec!["scale"; 8])) as ArrayRef))
        }),
        "x",
    );
    assert!(typed.contains("`gamma` of type Utf8: a number is wanted"), "{typed}");
    let index = changed("rows", |c| Some(("__index_level_0__".into(), c.clone())));
    assert_eq!(read(&index, "x").unwrap().iter().filter(|m| m.is_ok()).count(), 8);
    let gamma = changed("gamma", |c| {
        let values = c.as_primitive::<arrow::datatypes::Float64Type>();
        let values: arrow::array::Float64Array =
            (0..8).map(|i| (i % 2 == 0).then(|| values.value(i))).collect();
        Some(("gamma".into(), Arc::new(values) as ArrayRef))
    });
    let models = read(&gamma, "x").unwrap();
    let refused: Vec<&Refused> = models.iter().filter_map(|m| m.as_ref().err()).collect();
    // Of the four without a gamma, one is linear and needs none.
    assert_eq!((models.len(), refused.len()), (8, 3), "{refused:?}");
    assert!(
        refused[0].to_string().contains("`gamma` is missing") && refused[0].sensor.as_deref() == Some("bare")
    );
    assert_eq!(refused[0].entry, Some(2));
}

#[test]
fn a_parquet_that_claims_too_much_is_refused() {
    let limits = Limits { max_table_inflation: 0, ..Limits::default() };
    let mut out = Vec::new();
    let zeros = Arc::new(arrow::array::Float64Array::from(vec![0.0; 9 << 20])) as ArrayRef;
    let lists = arrow::array::ListArray::new(
        Arc::new(arrow::datatypes::Field::new("item", arrow::datatypes::DataType::Float64, true)),
        arrow::buffer::OffsetBuffer::from_lengths([9 << 20]),
        zeros,
        None,
    );
    let kernel = Arc::new(arrow::array::StringArray::from(vec!["linear"])) as ArrayRef;
    let lists = Arc::new(lists) as ArrayRef;
    let batch = RecordBatch::try_from_iter([
        ("kernel", kernel),
        ("support_vectors", lists.clone()),
        ("dual_coef", lists),
    ])
    .unwrap();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    assert!(out.len() < 1 << 20);
    let e = open(out.into(), "x", &limits).err().expect("a bomb").to_string();
    assert!(e.contains("says that its values take"), "{e}");
}

#[test]
fn a_cut_or_changed_file_never_panics_and_gives_only_valid_models() {
    let names =
        ["rbf.onnx", "double.onnx", "columns.onnx", "compressed.zlib.joblib", "named.joblib", "models.jsonl"];
    for name in names {
        let good = fixture(name);
        for at in 0..good.len().min(1500) {
            let cut = read(&good[..at], name);
            assert!(name.ends_with("jsonl") || cut.is_err(), "{name} cut at {at}");
            for change in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= change;
                for found in read(&bad, name).into_iter().flatten().flatten() {
                    found.model.validate().unwrap();
                }
            }
        }
    }
}

/// Found by fuzzing: the Parquet library panics over the definition levels of the one, and over what Arrow adds of its own
/// types in the other, which is not needed.
#[test]
fn a_panic_of_the_parquet_library_is_a_damaged_file() {
    let damaged = read(&fixture("damaged/levels.parquet"), "x");
    assert!(damaged.is_err() || damaged.is_ok_and(|found| found.iter().any(|f| f.is_err())));
    for found in read(&fixture("damaged/schema.parquet"), "x").into_iter().flatten().flatten() {
        found.model.validate().unwrap();
    }
}

#[test]
fn many_models_in_one_file_are_handed_out_one_by_one() {
    // The second half would not be read at all.
    let mut text = format!("{MODEL}\n").repeat(1000);
    text.push_str("broken");
    let (format, mut models) = open(text.into(), "x.jsonl", &Limits::default()).unwrap();
    assert_eq!(format, Format::Json);
    assert!(models.by_ref().take(1000).all(|m| m.is_ok()));
    assert!(models.next().unwrap().is_err() && models.next().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), name in prop::sample::select(&["x", "x.onnx", "x.json", "x.parquet", "x.joblib"][..])) {
        for found in read(&bytes, name).into_iter().flatten().flatten() {
            prop_assert!(found.model.validate().is_ok());
        }
    }

    #[test]
    fn plain_numbers_survive_json(
        sv in proptest::collection::vec(-1e6..1e6f64, 1..20), rho in -10.0..10.0f64, gamma in 1e-6..10.0f64
    ) {
        let coef = vec![0.1; sv.len()];
        let text = serde_json::json!({"kernel": "rbf", "gamma": gamma, "support_vectors": sv, "dual_coef": coef, "rho": rho});
        let found = read(text.to_string().as_bytes(), "x").unwrap().remove(0).unwrap();
        prop_assert_eq!(found.model.support_vectors, sv);
        prop_assert_eq!(found.model.rho, rho);
        prop_assert_eq!(found.model.kernel, fleetscore_kernel::Kernel::Rbf { gamma });
    }

    #[test]
    fn spliced_onnx_is_read_or_refused(a in 0usize..900, b in 0usize..900, n in 0usize..200) {
        let good = fixture("double.onnx");
        let (a, b) = (a.min(good.len()), b.min(good.len()));
        let spliced = [&good[..a], &good[b..(b + n).min(good.len())], &good[a..]].concat();
        for found in read(&spliced, "x.onnx").into_iter().flatten().flatten() {
            prop_assert!(found.model.validate().is_ok());
        }
    }
}
