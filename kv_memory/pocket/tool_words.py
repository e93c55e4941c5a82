"""What generated tools are made of: verbs, flags, and tools as real programs have them; some only for testing."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VERBS = tuple(
    _words(line)
    for line in """
get fetch read retrieve view look_up pull_up show
search find browse query look_for
list enumerate
create add make register set_up
cancel stop abort call_off
delete remove erase discard
update change edit modify
send mail transmit
book reserve
check verify inspect examine
move relocate shift
pay settle
buy purchase
print
download export save
lock block freeze
unlock unblock
approve accept confirm
reject decline refuse
pause suspend
resume continue
count tally
rename
copy duplicate clone
merge combine
split divide
sort arrange
track follow monitor
rate review
upload import
close finish
convert translate
schedule plan
assign allocate
transfer
invite
measure
refund reimburse
restart reboot
replace swap
estimate calculate compute
order
subscribe
clean wash
test try
start launch begin
open
set
log record
""".strip().splitlines()
)
"""Verbs that mean the same stand in one line: a list of tools never has two of a line for the same noun."""
TEST_VERBS = tuple(
    (verb,)
    for verb in _words(
        "reschedule escalate revoke renew archive dispatch redeem waive audit publish upgrade validate provision "
        "summarize enroll annotate"
    )
)
ID_VERBS = _words(
    "get cancel delete update check move pay lock unlock approve reject pause resume rename copy track rate close "
    "refund restart replace assign reschedule escalate revoke renew archive redeem waive audit upgrade validate"
)
"""First verbs of a line that are said of one thing with an id."""
PLURAL_VERBS = ("search", "list", "count", "sort", "merge")
"""First verbs of a line that are said of several things."""

FLAGS = _words(
    "insurance breakfast express_shipping gift_wrap notifications tracking signature priority_support late_checkout "
    "encryption backup discount wifi parking refundable tax comments history images details"
)
TEST_FLAGS = _words("travel_protection lounge_access audit_trail carbon_offset weekend_delivery attachments")

KNOWN = """
search flight | origin:airport:from {}; destination:airport:to {}; date:date:on {}; passengers?:count:for {} passengers; cabin?:economy,business,first:in {} class
book flight | flight_number:id; passenger_name:name:for {}; seats:count:with {} seats; insurance?:flag
book reservation | name:name:for {}; date:date:on {}; time:time:at {}; guests:count:for {} guests; city?:city:in {}
cancel order | order_id:id; reason:phrase:because of {}
send email | to:email:to {}; subject:phrase:with the subject {}; body:text:and the text {}
set reminder | time:time:for {}; text:text:that says {}; date?:date:on {}
get weather | city:city:in {}; date?:date:on {}; unit?:celsius,fahrenheit,kelvin:in {}
transfer money | amount:price:of {}; from_account:id:from account {}; to_account:code:to account {}; express?:flag
update user | user_id:id; email?:email; phone?:phone; city?:city; newsletter?:flag
create event | title:phrase:called {}; date:date:on {}; start_time:time:at {}; attendees?:list:with the guests {}; online?:flag
convert currency | amount:price:of {}; source:airport:from {}; target:airport:to {}
search product | query:phrase:for {}; max_price?:price:below {}; category?:word:in the category {}; in_stock?:flag
refund payment | payment_id:id; amount:price:of {}; reason?:phrase:because of {}
get order | order_id:id; include_history?:flag
track parcel | tracking_number:id
create ticket | title:phrase:about {}; priority:low,medium,high,urgent:with {} priority; assignee?:name:for {}
assign task | task_id:id; assignee:name:to {}; due_date?:date:until {}
order taxi | pickup:word:from {}; destination:word:to {}; time:time:at {}; passengers?:count:for {} people
set temperature | room:word:in the {}; degrees:count:to {} degrees; unit?:celsius,fahrenheit:in {}
send message | recipient:name:to {}; text:text:that says {}; urgent?:flag
create user | name:name:for {}; email:email:with the email {}; role?:admin,editor,viewer:as {}
buy stock | symbol:airport:of {}; shares:count:for {} shares; limit?:price:at most at {}
rate driver | driver_id:id; stars:count:with {} stars; comment?:text:and the comment {}
start timer | seconds:count:of {} seconds; label?:word:called {}
"""  # noqa: E501
"""Verb, noun, and parameters as `name:kind:how a request says it`; `?` marks an optional one, commas an enum."""
TEST_KNOWN = """
search hotel | location:city:in {}; check_in:date:from {}; check_out:date:to {}; rooms?:count:with {} rooms; stars?:digits:with {} stars
reschedule appointment | appointment_id:id; new_date:date:to {}; new_time?:time:at {}
redeem voucher | voucher_code:id; cart:code:on cart {}; notify?:flag
create playlist | title:phrase:called {}; songs:list:with the songs {}; public?:flag
upgrade subscription | subscription_id:id; plan:basic,team,enterprise:to the plan {}; months?:count:for {} months
dispatch courier | pickup_city:city:from {}; dropoff_city:city:to {}; weight_kg:price:with {} kilograms; signature?:flag
publish article | headline:phrase:called {}; author:name:by {}; section?:word:in the section {}
get exchange_rate | base:airport:from {}; quote:airport:to {}; on_date?:date:on {}
"""  # noqa: E501
