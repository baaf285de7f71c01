//! A disk that fills up under the store, and gets room again.

use super::*;
use crate::scenario::topic;
use fleetscore_harness::disk::SmallDisk;
use fleetscore_harness::free_port;
use fleetscore_harness::postgres::Postgres;

pub(super) fn full(servers: &Servers, database: Database) -> Test {
    let disk = match SmallDisk::mount(&servers.folder("disk"), 64) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("NOTE: no small disk can be mounted here ({why}): the test of a full disk is left out");
            return Ok(());
        }
    };
    match database {
        Database::Sqlite { .. } => {
            fills_up(servers, &Database::Sqlite { file: disk.folder().join("fleetscore.db") }, &disk)
        }
        Database::Postgres { .. } => {
            // Tables alone lie on the small disk: a server that cannot write its log ends by itself.
            let server = Postgres::start(&servers.folder("postgres"));
            let tables = server.folder_for_tables(disk.folder());
            let admin = Database::Postgres { url: server.url("postgres") };
            admin.rows(&format!("CREATE TABLESPACE small LOCATION '{}'", tables.display()))?;
            admin.rows("CREATE DATABASE small TABLESPACE small")?;
            fills_up(servers, &Database::Postgres { url: server.url("small") }, &disk)?;
            server.process.stop();
            Ok(())
        }
    }
}

fn fills_up(servers: &Servers, database: &Database, disk: &SmallDisk) -> Test {
    let topic = topic("disk");
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 2);
    let address = format!("127.0.0.1:{}", free_port());
    let service = Fleetscore::new(servers, database, &topic).with("--http", &address).start(&["aggregate"]);
    let mut all = readings("first", 0, 12);
    kafka.send_to(&topic, 0, &payloads(&all));
    wait_for_readings(&service, database, all.len());
    disk.fill();
    let full = wait_until("the disk to be full", PATIENCE, || {
        service.assert_alive();
        match http(&address, "/readyz")? {
            (503, body) if body.contains("full") || body.contains("No space left") => return Ok(body),
            _ => {}
        }
        // Names of 200 bytes, two minutes each.
        let from = all.len() as i64;
        for d in from..from + 2_000 {
            let device = format!("{d:0200}");
            all.extend(readings(&device, 0, 12).into_iter().step_by(6));
        }
        for (partition, half) in (0..).zip(all[from as usize..].chunks(2_000)) {
            kafka.send_to(&topic, partition, &payloads(half));
        }
        std::thread::sleep(Duration::from_secs(1));
        Err("not yet".to_owned())
    });
    assert!(full.contains("store"), "{full}");
    std::thread::sleep(Duration::from_secs(2));
    service.assert_alive();
    let said = service.process.output();
    assert!(said.contains("waiting for the store"), "{said}");
    assert_eq!(http(&address, "/healthz").map(|a| a.0), Ok(200), "nothing that a restart would cure");

    disk.empty();
    wait_for_readings(&service, database, all.len());
    wait_until("/readyz to be well", PATIENCE, || match http(&address, "/readyz")? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    service.stop();
    assert_exact(database, &all);
    assert_eq!(database.number("SELECT count(*) FROM dead_letters")?, 0);
    Ok(())
}
