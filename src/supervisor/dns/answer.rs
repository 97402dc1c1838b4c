//! From the bytes of a question to an answer from our own names, or to the verdict that it is foreign.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use super::table::{Route, Table};

/// Seconds that an answer may be kept: long enough for a burst, short enough for a restart.
const LIFETIME: u32 = 5;

/// Bytes of an answer that go over UDP at most, whatever the asker says it takes.
const LARGEST_DATAGRAM: u16 = 4096;

/// How the question came, and so how long the answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Answer(Vec<u8>),
    /// It is foreign, and goes there; never [`Route::None`].
    Forward(Route),
    /// No question, or nothing that an answer could be sent to.
    Ignore,
}

/// Judges `bytes`, asked by `sandbox`. `turn` differs from question to question, so that replicas take turns.
pub(super) fn judge(
    bytes: &[u8],
    sandbox: &str,
    table: &Table,
    turn: usize,
    transport: Transport,
) -> Verdict {
    let mut decoder = BinDecoder::new(bytes);
    let Ok(header) = Header::read(&mut decoder) else {
        return Verdict::Ignore;
    };
    if header.metadata.message_type == MessageType::Response {
        return Verdict::Ignore;
    }
    let reply = Reply { bytes, transport };
    if header.metadata.op_code != OpCode::Query {
        return reply.code(header, None, ResponseCode::NotImp);
    }
    let query = match Query::read(&mut decoder) {
        Ok(query) if header.counts.queries == 1 => query,
        _ => return reply.code(header, None, ResponseCode::FormErr),
    };
    let name = match query.query_class() {
        DNSClass::IN => look_up(&query, sandbox, table, turn),
        _ => Found::Foreign,
    };
    match (name, table.route(sandbox)) {
        (Found::Own(answers), _) => reply.answers(header, query, answers),
        (Found::Idle, _) | (Found::Foreign, Route::None) => {
            reply.code(header, Some(query), ResponseCode::NXDomain)
        }
        (Found::Foreign, route) => Verdict::Forward(route),
    }
}

/// What a name is to us.
enum Found {
    Foreign,
    /// Ours, and none of its owners runs.
    Idle,
    /// Ours, with the records of the kind that was asked for.
    Own(Vec<Record>),
}

fn look_up(query: &Query, sandbox: &str, table: &Table, turn: usize) -> Found {
    let name = query.name();
    let kind = query.query_type();
    let record = |data| Record::from_rdata(name.clone(), LIFETIME, data);
    if kind == RecordType::PTR
        && let Ok(net) = name.parse_arpa_name()
        && net.prefix_len() == net.max_prefix_len()
    {
        let owner = table.owner(sandbox, net.addr());
        let owner = owner.and_then(|owner| Name::from_labels(owner.split('.')).ok());
        return owner.map_or(Found::Foreign, |owner| {
            Found::Own(vec![record(RData::PTR(PTR(owner)))])
        });
    }
    let text = name.to_ascii();
    let known = match table.addresses(sandbox, text.strip_suffix('.').unwrap_or(&text)) {
        None => return Found::Foreign,
        Some([]) => return Found::Idle,
        Some(known) => known,
    };
    let mut answers: Vec<_> = known
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) if matches!(kind, RecordType::A | RecordType::ANY) => {
                Some(record(RData::A(A(*address))))
            }
            IpAddr::V6(address) if matches!(kind, RecordType::AAAA | RecordType::ANY) => {
                Some(record(RData::AAAA(AAAA(*address))))
            }
            _ => None,
        })
        .collect();
    if !answers.is_empty() {
        let first = turn % answers.len();
        answers.rotate_left(first);
    }
    Found::Own(answers)
}

/// The answer to `bytes` that says no more than `code`.
pub(super) fn refusal(bytes: &[u8], code: ResponseCode, transport: Transport) -> Option<Vec<u8>> {
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder).ok()?;
    let query = Query::read(&mut decoder).ok();
    match (Reply { bytes, transport }).code(header, query, code) {
        Verdict::Answer(answer) => Some(answer),
        _ => None,
    }
}

/// Makes answers to a question.
struct Reply<'a> {
    bytes: &'a [u8],
    transport: Transport,
}

impl Reply<'_> {
    fn code(&self, header: Header, query: Option<Query>, code: ResponseCode) -> Verdict {
        self.message(header, query, Vec::new(), code)
    }

    fn answers(&self, header: Header, query: Query, answers: Vec<Record>) -> Verdict {
        self.message(header, Some(query), answers, ResponseCode::NoError)
    }

    fn message(
        &self,
        header: Header,
        query: Option<Query>,
        answers: Vec<Record>,
        code: ResponseCode,
    ) -> Verdict {
        let asked = header.metadata;
        let mut message = Message::response(asked.id, asked.op_code);
        message.metadata.recursion_desired = asked.recursion_desired;
        message.metadata.checking_disabled = asked.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_queries(query);
        message.insert_answers(answers);
        // What follows the question is looked at only for our own answers.
        let edns = Message::from_vec(self.bytes)
            .ok()
            .and_then(|message| message.edns);
        let mut limit = 512;
        if let Some(edns) = edns {
            limit = edns.max_payload().clamp(512, LARGEST_DATAGRAM);
            let mut ours = Edns::new();
            ours.set_max_payload(LARGEST_DATAGRAM);
            message.set_edns(ours);
        }
        if self.transport == Transport::Tcp {
            limit = u16::MAX;
        }
        loop {
            let Ok(bytes) = message.to_vec() else {
                return Verdict::Ignore;
            };
            if bytes.len() <= usize::from(limit) || message.answers.is_empty() {
                return Verdict::Answer(bytes);
            }
            // Some resolvers take what there is and never ask again over TCP.
            message.metadata.truncation = true;
            let kept = message.answers.len() * usize::from(limit) / bytes.len();
            message
                .answers
                .truncate(kept.min(message.answers.len() - 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::table::tests::{BOOT, record};
    use super::*;

    fn table() -> Table {
        let replicas: Vec<_> = (1..=200)
            .map(|number| {
                let network = format!("net=10.0.0.{number}/16");
                record(&format!("many-{number}"), &["many"], &[&network])
            })
            .collect();
        let mut records = vec![
            record("web-1", &["web"], &["net=10.0.1.1/16"]),
            record("db-1", &["db"], &["net=10.0.1.2/16,fd00::2/64"]),
            record("db-2", &["db"], &["net=10.0.1.3/16"]),
            record("job-1", &["job"], &["back=10.1.0.1/16"]),
        ];
        let mut stopped = record("old-1", &["old"], &["net=10.0.1.9/16"]);
        stopped.active = false;
        records.push(stopped);
        records.extend(replicas);
        Table::new(&records, &BTreeSet::from(["back".to_owned()]), BOOT)
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn ask(message: &Message, sandbox: &str, turn: usize, transport: Transport) -> Verdict {
        judge(
            &message.to_vec().unwrap(),
            sandbox,
            &table(),
            turn,
            transport,
        )
    }

    fn answer(name: &str, kind: RecordType, turn: usize) -> Message {
        match ask(&question(name, kind), "web-1", turn, Transport::Udp) {
            Verdict::Answer(bytes) => {
                let message = Message::from_vec(&bytes).unwrap();
                assert_eq!(message.metadata.id, 77);
                assert!(message.metadata.recursion_desired && message.metadata.recursion_available);
                message
            }
            other => panic!("{other:?}"),
        }
    }

    fn data(message: &Message) -> Vec<String> {
        message
            .answers
            .iter()
            .map(|record| record.data.to_string())
            .collect()
    }

    #[test]
    fn replicas_take_turns() {
        assert_eq!(
            data(&answer("db.", RecordType::A, 0)),
            ["10.0.1.2", "10.0.1.3"]
        );
        assert_eq!(
            data(&answer("DB.net.", RecordType::A, 1)),
            ["10.0.1.3", "10.0.1.2"]
        );
        assert_eq!(data(&answer("db.", RecordType::AAAA, 7)), ["fd00::2"]);
        assert_eq!(data(&answer("db.", RecordType::ANY, 0)).len(), 3);
    }

    #[test]
    fn the_name_comes_back_as_it_was_written() {
        let message = answer("dB.", RecordType::A, 0);
        assert_eq!(message.queries[0].name().to_ascii(), "dB.");
        assert_eq!(message.answers[0].name.to_ascii(), "dB.");
    }

    #[test]
    fn what_an_own_name_does_not_have_is_an_empty_answer() {
        for kind in [
            RecordType::AAAA,
            RecordType::TXT,
            RecordType::MX,
            RecordType::HTTPS,
        ] {
            let message = answer("web.", kind, 0);
            assert_eq!(
                message.metadata.response_code,
                ResponseCode::NoError,
                "{kind}"
            );
            assert!(message.answers.is_empty());
        }
    }

    #[test]
    fn an_address_is_answered_with_a_name() {
        let message = answer("2.1.0.10.in-addr.arpa.", RecordType::PTR, 0);
        assert_eq!(data(&message), ["db.net."]);
        let foreign = question("8.8.8.8.in-addr.arpa.", RecordType::PTR);
        assert_eq!(
            ask(&foreign, "web-1", 0, Transport::Udp),
            Verdict::Forward(Route::Host)
        );
    }

    #[test]
    fn foreign_names_are_forwarded_and_own_names_never() {
        let foreign = question("example.com.", RecordType::A);
        assert_eq!(
            ask(&foreign, "web-1", 0, Transport::Udp),
            Verdict::Forward(Route::Host)
        );
        let stopped = answer("old.", RecordType::A, 0);
        assert_eq!(stopped.metadata.response_code, ResponseCode::NXDomain);
    }

    #[test]
    fn a_confined_sandbox_hears_at_once_that_there_is_no_such_name() {
        // musl would wait five seconds for somebody else after SERVFAIL or REFUSED.
        let foreign = question("example.com.", RecordType::A);
        let Verdict::Answer(bytes) = ask(&foreign, "job-1", 0, Transport::Udp) else {
            panic!("expected an answer");
        };
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    }

    #[test]
    fn an_answer_is_as_long_as_the_asker_takes() {
        let length = |message: &Message, transport| match ask(message, "web-1", 0, transport) {
            Verdict::Answer(bytes) => {
                let answer = Message::from_vec(&bytes).unwrap();
                assert_eq!(answer.edns.is_some(), message.edns.is_some());
                (
                    bytes.len(),
                    answer.answers.len(),
                    answer.metadata.truncation,
                )
            }
            other => panic!("{other:?}"),
        };
        let mut plain = question("many.", RecordType::A);
        let (bytes, answers, truncated) = length(&plain, Transport::Udp);
        assert!(
            bytes <= 512 && answers > 25 && truncated,
            "{bytes} {answers}"
        );
        let (_, answers, truncated) = length(&plain, Transport::Tcp);
        assert!(answers == 200 && !truncated);
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        plain.set_edns(edns.clone());
        let (bytes, answers, truncated) = length(&plain, Transport::Udp);
        assert!(
            bytes <= 1232 && bytes > 1100 && answers > 60 && truncated,
            "{bytes}"
        );
        edns.set_max_payload(9000);
        plain.set_edns(edns);
        let (bytes, answers, truncated) = length(&plain, Transport::Udp);
        assert!(bytes <= 4096 && answers == 200 && !truncated, "{bytes}");
    }

    #[test]
    fn what_is_no_question_is_refused_or_ignored() {
        let code = |message: &Message| match ask(message, "web-1", 0, Transport::Udp) {
            Verdict::Answer(bytes) => Message::from_vec(&bytes).unwrap().metadata.response_code,
            other => panic!("{other:?}"),
        };
        let mut message = question("web.", RecordType::A);
        message.metadata.op_code = OpCode::Notify;
        assert_eq!(code(&message), ResponseCode::NotImp);
        let mut message = question("web.", RecordType::A);
        message.add_query(message.queries[0].clone());
        assert_eq!(code(&message), ResponseCode::FormErr);
        message.queries.clear();
        assert_eq!(code(&message), ResponseCode::FormErr);
        let mut message = question("web.", RecordType::A);
        message.metadata.message_type = MessageType::Response;
        assert_eq!(ask(&message, "web-1", 0, Transport::Udp), Verdict::Ignore);
        assert_eq!(
            judge(b"short", "web-1", &table(), 0, Transport::Udp),
            Verdict::Ignore
        );
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600), flip in 0usize..40, value: u8) {
            let table = Table::default();
            judge(&bytes, "web-1", &table, 1, Transport::Udp);
            refusal(&bytes, ResponseCode::ServFail, Transport::Udp);
            let mut bytes = question("web.example.", RecordType::A).to_vec().unwrap();
            let index = flip % bytes.len();
            bytes[index] = value;
            judge(&bytes, "web-1", &table, usize::MAX, Transport::Tcp);
        }
    }
}
