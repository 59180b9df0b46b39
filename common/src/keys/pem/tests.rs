use super::*;

fn key() -> Zeroizing<String> {
    encode("PRIVATE KEY", &[1; 48])
}

fn certificate() -> Zeroizing<String> {
    encode("CERTIFICATE", &[2; 48])
}

#[test]
fn whatever_wrote_the_file_it_is_read() {
    let both = format!("{}{}", key().as_str(), certificate().as_str());
    for (what, text) in [
        ("plain", both.clone()),
        ("a byte order mark", format!("\u{feff}{both}")),
        ("CRLF", both.replace('\n', "\r\n")),
        ("glued", both.replace("-----\n-----BEGIN", "----------BEGIN")),
        ("text around", format!("Bag Attributes\n  friendlyName: x\n{both}\nthe end")),
        ("indented", both.replace('\n', "\n  ")),
        ("an older label", both.replace("CERTIFICATE", "X509 CERTIFICATE")),
    ] {
        assert_eq!(private_key(text.as_bytes()).unwrap().as_slice(), &[1; 48], "{what}");
        assert_eq!(certificates(text.as_bytes()).unwrap(), [vec![2; 48]], "{what}");
    }
}

#[test]
fn each_wrong_input_has_its_own_message() {
    let (key, certificate) = (key(), certificate());
    let found = |text: &str| InvalidPem::Missing { wanted: "certificate", found: text.to_owned() };
    assert_eq!(certificates(key.as_bytes()), Err(found("a private key")));
    let request = encode("CERTIFICATE REQUEST", &[1; 48]);
    assert_eq!(certificates(request.as_bytes()), Err(found(REQUEST)));
    let twice = format!("{}{}", key.as_str(), key.as_str());
    assert_eq!(private_key(twice.as_bytes()), Err(InvalidPem::SeveralKeys(2)));
    for locked in [
        encode("ENCRYPTED PRIVATE KEY", &[1; 48]).to_string(),
        key.replace("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n"),
    ] {
        assert_eq!(private_key(locked.as_bytes()), Err(InvalidPem::Encrypted));
    }
    let said = |content: &[u8]| certificates(content).unwrap_err();
    assert_eq!(said(b" \n"), InvalidPem::Empty);
    assert_eq!(said(b"\xff\xfe-\0-\0"), InvalidPem::Utf16);
    assert_eq!(said(b"\xfe\xed\xfe\xed\0\0\0\x02"), InvalidPem::JavaKeyStore);
    assert_eq!(said(b"no"), InvalidPem::Unknown);
    assert_eq!(said(&[0x30, 0x80, 0, 0]), InvalidPem::Unknown);
    assert_eq!(said(encode("PKCS7", &[1; 48]).as_bytes()), InvalidPem::Pkcs7 { der: false });
    assert_eq!(said(encode("OPENSSH PRIVATE KEY", &[1; 48]).as_bytes()), InvalidPem::OpenSsh);
    let broken = InvalidPem::Malformed("CERTIFICATE".to_owned());
    assert_eq!(said(b"-----BEGIN CERTIFICATE-----\n***\n-----END CERTIFICATE-----\n"), broken);
    assert_eq!(said(certificate[..60].as_bytes()), broken);
    // Of a kind that is not read: it must not go anywhere all the same.
    let foreign = format!("{}{}", certificate.as_str(), encode("DSA PRIVATE KEY", &[1; 48]).as_str());
    assert!(holds_private_key(foreign.as_bytes()));
    assert!(holds_private_key(key.as_bytes()) && !holds_private_key(certificate.as_bytes()));
}
