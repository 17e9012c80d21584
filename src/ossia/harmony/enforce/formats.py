"""The string formats of JSON Schema that a grammar can enforce, as ECMAScript patterns.

In: a format's name. Out: its pattern (`FORMATS`). `UNKNOWN_FORMATS` are standard formats without a pattern here. Any
other name, such as "int32", is an annotation.
"""

HEX4 = "[0-9a-fA-F]{1,4}"
PAIR = f"{HEX4}:{HEX4}"
OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4 = rf"(?:{OCTET}\.){{3}}{OCTET}"
IPV6 = "|".join((
    f"(?:{HEX4}:){{7}}{HEX4}",
    f"::(?:{HEX4}:){{0,5}}{PAIR}",
    f"(?:{HEX4})?::(?:{HEX4}:){{0,4}}{PAIR}",
    *(f"(?:(?:{HEX4}:){{0,{groups}}}{HEX4})?::(?:{HEX4}:){{0,{3 - groups + 1}}}{PAIR}" for groups in (1, 2)),
    f"(?:(?:{HEX4}:){{0,3}}{HEX4})?::{HEX4}:{PAIR}",
    f"(?:(?:{HEX4}:){{0,4}}{HEX4})?::{PAIR}",
    f"(?:(?:{HEX4}:){{0,5}}{HEX4})?::{HEX4}",
    f"(?:(?:{HEX4}:){{0,6}}{HEX4})?::",
))  # fmt: skip
DATE = (
    r"(?:(?:[1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-"
    r"(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))|(?:\d\d(?:0[48]|[2468][048]|[13579][26])|"
    r"(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
)
TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_CLOCK = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_CALENDAR = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
DURATION = f"P(?:{_CALENDAR}(?:{_CLOCK})?|{_CLOCK}|[0-9]+W)"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
# no punycode labels (with "--") and none that exceed the total length
HOSTNAME = rf"(?=[^-]+(?:-[^-]+)*$)(?=[^]{{1,253}}$){_LABEL}(?:\.{_LABEL})*"
_ATOM = r"[a-zA-Z0-9!#$%&'*+\-/=?\^_`{|}~]+"
_DOMAIN = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
EMAIL = rf"(?=[^@]{{1,64}}@[^@]{{1,253}}$){_ATOM}(?:\.{_ATOM})*@(?:{_DOMAIN}(?:\.{_DOMAIN})*|\[{IPV4}\])"
UUID = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_UNRESERVED = r"a-zA-Z0-9\-._~!$&'()*+,;="
_SEGMENT = f"(?:[{_UNRESERVED}:@]|%[0-9a-fA-F]{{2}})"
_IP_LITERAL = "|".join((
    f"(?:{HEX4}:){{7}}{HEX4}",
    f"(?:{HEX4}:){{1,7}}:",
    *(f"(?:{HEX4}:){{1,{7 - after}}}(?::{HEX4}){{1,{after}}}" for after in range(1, 7)),
    f":(?::{HEX4}){{1,7}}",
    "::",
    rf"v[0-9a-fA-F]+\.[{_UNRESERVED}:]+",
))  # fmt: skip
_HOST = rf"(?:\[(?:{_IP_LITERAL})\]|{IPV4}|(?:[{_UNRESERVED}]|%[0-9a-fA-F]{{2}})*)"
_AUTHORITY = f"(?:(?:[{_UNRESERVED}:]|%[0-9a-fA-F]{{2}})*@)?{_HOST}(?::[0-9]*)?"
_PATHS = f"//{_AUTHORITY}(?:/{_SEGMENT}*)*|/(?:{_SEGMENT}+(?:/{_SEGMENT}*)*)?|{_SEGMENT}+(?:/{_SEGMENT}*)*|"
_QUERY = f"(?:[{_UNRESERVED}:@/?]|%[0-9a-fA-F]{{2}})*"
URI = rf"[a-zA-Z][a-zA-Z0-9+\-.]*:(?:{_PATHS})(?:\?{_QUERY})?(?:#{_QUERY})?"

FORMATS = {
    name: f"^(?:{pattern})$"
    for name, pattern in {
        "date": DATE, "time": TIME, "date-time": f"{DATE}[Tt]{TIME}", "duration": DURATION, "hostname": HOSTNAME,
        "email": EMAIL, "ipv4": IPV4, "ipv6": IPV6, "uuid": UUID, "uri": URI,
    }.items()
}  # fmt: skip
UNKNOWN_FORMATS = frozenset(
    "regex uri-reference uri-template iri iri-reference idn-email idn-hostname json-pointer relative-json-pointer".split()
)
