//! Reading several logs at once.

use std::io::Write as _;
use std::time::Instant;

use tokio_stream::StreamExt as _;

use super::*;

fn append(path: &Path, second: i64, text: &str) {
    let time = Timestamp::from_second(second).unwrap();
    let line = Line {
        log: text.into(),
        stream: "stdout".into(),
        time,
    };
    let mut file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    writeln!(file, "{}", serde_json::to_string(&line).unwrap()).unwrap();
}

fn source(directory: &Path, key: &str) -> Source {
    let folder = directory.join(key);
    std::fs::create_dir_all(&folder).unwrap();
    Source {
        key: key.into(),
        path: folder.join("a.log"),
    }
}

async fn next(stream: &mut LogStream) -> String {
    match tokio::time::timeout(Duration::from_secs(20), stream.next())
        .await
        .unwrap()
    {
        Some(Item::Line { key, line }) => format!("{key}: {}", line.log),
        Some(Item::CaughtUp { key }) => format!("{key} caught up"),
        Some(Item::Damaged { key, text }) => format!("{key}! {text}"),
        Some(Item::Failed { key, error }) => format!("{key} failed: {}", error.kind()),
        None => "end".into(),
    }
}

fn follow() -> ReadOptions {
    ReadOptions {
        follow: true,
        ..ReadOptions::default()
    }
}

#[tokio::test]
async fn a_mark_is_answered_after_what_was_there_and_reading_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let source = source(directory.path(), "a");
    let path = source.path.clone();
    append(&path, 1, "one");
    let options = ReadOptions {
        follow: true,
        ..ReadOptions::default()
    };
    let (handle, mut stream) = read(vec![source], options).unwrap();
    handle.mark("a");
    handle.mark("unknown");
    let mut first = vec![
        next(&mut stream).await,
        next(&mut stream).await,
        next(&mut stream).await,
    ];
    first.retain(|item| item != "unknown caught up");
    assert_eq!(first, ["a: one", "a caught up"]);
    append(&path, 2, "two");
    assert_eq!(next(&mut stream).await, "a: two");
}

#[tokio::test]
async fn history_is_merged_by_time() {
    let directory = tempfile::tempdir().unwrap();
    let (web, db) = (
        source(directory.path(), "web"),
        source(directory.path(), "db"),
    );
    for second in 0..1000 {
        let path = if second % 3 == 0 { &db.path } else { &web.path };
        append(path, second, &second.to_string());
    }
    let (_handle, mut stream) = read(vec![web, db], ReadOptions::default()).unwrap();
    for second in 0..1000 {
        let key = if second % 3 == 0 { "db" } else { "web" };
        assert_eq!(next(&mut stream).await, format!("{key}: {second}"));
    }
    assert_eq!(next(&mut stream).await, "end");
}

#[tokio::test]
async fn following_shows_new_lines_and_new_logs_and_ends_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let (web, db) = (
        source(directory.path(), "web"),
        source(directory.path(), "db"),
    );
    append(&web.path, 1, "old");
    let (handle, mut stream) = read(vec![web.clone()], follow()).unwrap();
    assert_eq!(next(&mut stream).await, "web: old");
    append(&web.path, 2, "new");
    assert_eq!(next(&mut stream).await, "web: new");
    handle.add(vec![db.clone()]);
    handle.add(vec![db.clone()]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    append(&db.path, 3, "hello");
    assert_eq!(next(&mut stream).await, "db: hello");
    std::fs::rename(&web.path, super::super::file::rotated(&web.path, 1)).unwrap();
    append(&web.path, 4, "rotated");
    assert_eq!(next(&mut stream).await, "web: rotated");
    handle.finish("web");
    tokio::time::sleep(Duration::from_millis(20)).await;
    append(&web.path, 5, "unseen");
    append(&db.path, 6, "last");
    handle.finish_all();
    assert_eq!(next(&mut stream).await, "db: last");
    assert_eq!(next(&mut stream).await, "end");
}

#[tokio::test]
async fn a_record_that_is_written_in_two_parts_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let web = source(directory.path(), "web");
    append(&web.path, 1, "whole");
    let record = std::fs::read(&web.path).unwrap();
    std::fs::write(&web.path, &record[..20]).unwrap();
    let (_handle, mut stream) = read(vec![web.clone()], follow()).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), stream.next()).await;
    assert!(early.is_err());
    let mut file = std::fs::File::options()
        .append(true)
        .open(&web.path)
        .unwrap();
    file.write_all(&record[20..]).unwrap();
    assert_eq!(next(&mut stream).await, "web: whole");
}

#[tokio::test]
async fn damage_is_named_and_a_missing_log_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let (web, db) = (
        source(directory.path(), "web"),
        source(directory.path(), "db"),
    );
    append(&web.path, 1, "first");
    let mut file = std::fs::File::options()
        .append(true)
        .open(&web.path)
        .unwrap();
    file.write_all(b"what\n").unwrap();
    append(&web.path, 2, "second");
    file.write_all(b"{\"log\":\"to").unwrap();
    let (_handle, mut stream) = read(vec![web, db], ReadOptions::default()).unwrap();
    let mut found = Vec::new();
    loop {
        match next(&mut stream).await.as_str() {
            "end" => break,
            item => found.push(item.to_owned()),
        }
    }
    found.sort();
    assert_eq!(
        found,
        [
            "web! what",
            "web! {\"log\":\"to",
            "web: first",
            "web: second"
        ]
    );
}

#[tokio::test]
async fn following_ends_with_the_folder_of_the_log_and_with_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let web = source(directory.path(), "web");
    append(&web.path, 1, "only");
    let options = ReadOptions {
        until: Some(Timestamp::now() + Duration::from_millis(300)),
        ..follow()
    };
    let start = Instant::now();
    let (_handle, mut stream) = read(vec![web.clone()], options).unwrap();
    assert_eq!(next(&mut stream).await, "web: only");
    std::fs::remove_dir_all(web.path.parent().unwrap()).unwrap();
    assert_eq!(next(&mut stream).await, "end");
    assert!(start.elapsed() >= Duration::from_millis(290));
}

#[tokio::test]
async fn what_is_too_young_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let web = source(directory.path(), "web");
    for second in 1..=3 {
        append(&web.path, second, "line");
    }
    let options = ReadOptions {
        until: Timestamp::from_second(1).ok(),
        ..ReadOptions::default()
    };
    let (_handle, mut stream) = read(vec![web], options).unwrap();
    assert_eq!(next(&mut stream).await, "web: line");
    assert_eq!(next(&mut stream).await, "end");
}

#[tokio::test]
async fn a_log_that_cannot_be_read_says_so_and_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let web = source(directory.path(), "web");
    append(&web.path, 1, "fine");
    let nowhere = Source {
        key: "db".into(),
        path: directory.path().join("nowhere/a.log"),
    };
    let (_handle, mut stream) = read(vec![nowhere, web], follow()).unwrap();
    assert_eq!(next(&mut stream).await, "db failed: entity not found");
    assert_eq!(next(&mut stream).await, "web: fine");
}

#[tokio::test]
async fn a_reader_ends_with_its_consumer() {
    let directory = tempfile::tempdir().unwrap();
    let web = source(directory.path(), "web");
    let (handle, stream) = read(vec![web.clone()], follow()).unwrap();
    drop(stream);
    let end = Instant::now() + Duration::from_secs(10);
    // The thread holds the third reference.
    while Arc::strong_count(&handle.wake) > 1 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
