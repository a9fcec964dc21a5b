//! What of a run is in its row.

use super::*;
use crate::{
    report::sample,
    service::history::{
        schema,
        tests::{news_at, origin, run},
    },
};

fn database() -> Connection {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::migrate(&mut connection, 0).unwrap();
    connection
}

fn put_run(connection: &Connection, uid: Option<u32>, what: fn(Box<InvocationNews>) -> What) {
    let news = InvocationNews { uid, ..*run(sample::clean()) };
    put(connection, &origin("boot"), &news_at(0, what(Box::new(news)))).unwrap();
}

/// The one run's column.
fn of_run<T: rusqlite::types::FromSql>(connection: &Connection, column: &str) -> T {
    let sql = format!("SELECT {column} FROM invocations");
    connection.query_row(&sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn run_has_its_user_where_that_is_known() {
    let database = database();
    for uid in [Some(u32::MAX - 1), Some(0), None] {
        put_run(&database, uid, What::Opened);
        assert_eq!(of_run::<Option<u32>>(&database, "uid"), uid);
        put_run(&database, uid, What::Ended);
        assert_eq!(of_run::<Option<u32>>(&database, "uid"), uid);
    }
}
