//! What an edge thread does with the head of a request.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dkv::server::edge::{RequestHeader, check_head};

const PUT: &str = "PUT /v1/kv/config/service/endpoint HTTP/1.1\r\nHost: 127.0.0.1:2379\r\nUser-Agent: curl/8.5.0\r\n\
                   Accept: */*\r\nIdempotency-Key: 0198f2c4-7d1b-7f4e-9d55-0f6f4d3c2b1a\r\nIf-Match: \"41\"\r\n\
                   Content-Type: application/octet-stream\r\nContent-Length: 256\r\n\r\n";
const GET: &str = "GET /v1/kv/config/service/endpoint HTTP/1.1\r\nHost: 127.0.0.1:2379\r\n\r\n";
const SMUGGLED: &str = "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";

fn heads(c: &mut Criterion) {
    let mut clean = Vec::new();
    for (name, head) in [("put", PUT), ("get", GET), ("refused", SMUGGLED)] {
        let is_refused = check_head(head.as_bytes(), 1 << 20, &RequestHeader::ALL, &mut clean).is_err();
        assert_eq!(is_refused, name == "refused");
        c.bench_function(&format!("head/{name}"), |b| {
            b.iter(|| check_head(black_box(head.as_bytes()), 1 << 20, &RequestHeader::ALL, &mut clean));
        });
    }
}

criterion_group!(benches, heads);
criterion_main!(benches);
