//! What the gateway answers.
//!
//! Every refusal says that the connection closes, has no content, and names what happened in
//! `Proxy-Status` where RFC 9209 has a name for it.

use super::head::BadHead;
use crate::front_end::Failure;

/// How long a client should wait before it tries again, seconds.
const RETRY_AFTER_S: u32 = 5;

/// The tunnel is open; what follows belongs to it (RFC 9110 §9.3.6).
pub(in crate::front_end) fn connected() -> Vec<u8> {
    b"HTTP/1.1 200 Connection established\r\nProxy-Status: plait\r\n\r\n".to_vec()
}

/// The destination is not reached, or the client not trusted.
pub(in crate::front_end) fn failed(failure: Failure) -> Vec<u8> {
    let (status, error) = match failure {
        Failure::Credentials => return challenge(),
        Failure::TooManyAttempts => ("429 Too Many Requests", "http_request_denied"),
        Failure::CannotVerify => ("503 Service Unavailable", "proxy_internal_response"),
        Failure::NotAllowed => ("403 Forbidden", "destination_ip_prohibited"),
        Failure::UnknownName | Failure::NameFailed => ("502 Bad Gateway", "dns_error"),
        Failure::NetworkUnreachable | Failure::HostUnreachable | Failure::NoFamily => {
            ("502 Bad Gateway", "destination_ip_unroutable")
        }
        Failure::TtlExpired => ("502 Bad Gateway", "destination_unavailable"),
        Failure::Refused => ("502 Bad Gateway", "connection_refused"),
        Failure::TimedOut => ("504 Gateway Timeout", "connection_timeout"),
        Failure::Exhausted => ("503 Service Unavailable", "connection_limit_reached"),
        Failure::NotSupported => ("501 Not Implemented", "http_request_denied"),
        Failure::Internal => ("500 Internal Server Error", "proxy_internal_error"),
    };
    let waits =
        matches!(failure, Failure::TooManyAttempts | Failure::CannotVerify | Failure::Exhausted);
    let retry = if waits { format!("Retry-After: {RETRY_AFTER_S}\r\n") } else { String::new() };
    closing(status, &format!("Proxy-Status: plait; error={error}\r\n{retry}"))
}

/// The request is not served; empty where nothing is to be said.
pub(super) fn rejected(why: BadHead) -> Vec<u8> {
    let malformed = "Proxy-Status: plait; error=http_request_error\r\n";
    match why {
        BadHead::NotHttp => Vec::new(),
        BadHead::Malformed | BadHead::NumericName => closing("400 Bad Request", malformed),
        BadHead::Method => closing("405 Method Not Allowed", "Allow: CONNECT\r\n"),
        BadHead::Credentials => challenge(),
        BadHead::LineTooLong => closing("414 URI Too Long", malformed),
        BadHead::HeadTooLong => closing("431 Request Header Fields Too Large", malformed),
        BadHead::Version => closing("505 HTTP Version Not Supported", malformed),
    }
}

fn challenge() -> Vec<u8> {
    closing(
        "407 Proxy Authentication Required",
        "Proxy-Authenticate: Basic realm=\"plait\", charset=\"UTF-8\"\r\n",
    )
}

fn closing(status: &str, fields: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_a_response_that_ends() {
        let refusals = [
            BadHead::Malformed,
            BadHead::NumericName,
            BadHead::Method,
            BadHead::Credentials,
            BadHead::LineTooLong,
            BadHead::HeadTooLong,
            BadHead::Version,
        ];
        let answers = refusals.map(rejected).into_iter().chain(Failure::ALL.map(failed));
        for answer in answers {
            let mut fields = [httparse::EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut fields);
            let parsed = response.parse(&answer);
            assert_eq!(parsed, Ok(httparse::Status::Complete(answer.len())));
            let field = |name: &str| {
                let found = response.headers.iter().find(|field| field.name == name);
                found.map(|field| str::from_utf8(field.value).unwrap())
            };
            assert_eq!(field("Content-Length"), Some("0"));
            assert_eq!(field("Connection"), Some("close"));
            let code = response.code.unwrap();
            assert!((400..600).contains(&code));
            assert_eq!(field("Proxy-Authenticate").is_some(), code == 407);
            assert_eq!(field("Allow").is_some(), code == 405);
            assert_eq!(field("Retry-After").is_some(), code == 429 || code == 503);
        }
        assert!(rejected(BadHead::NotHttp).is_empty());
        assert!(connected().ends_with(b"\r\n\r\n"));
    }
}
