"""Passwords that everyone tries first: a few hundred words, the shorter ones for what people put behind them.

A list of this size stops the guesses that cost an attacker nothing, not a patient one. Patterns - one character again and
again, a run of the keyboard or the alphabet, a common word with digits behind it - are found by rule in
`server.passwords`, so they are not listed.
"""

from __future__ import annotations

from typing import Final

WORDS: Final = frozenset(
    """
password passw0rd p@ssword p@ssw0rd pa$$word pa$$w0rd passwort passwords password1 mypassword thepassword
iloveyou iloveu ilovegod iloveme ilovejesus iloveyou1 loveyou loveme lovely lovelove mylove truelove
princess sunshine football baseball basketball softball superman spiderman batman ironman
welcome welcome1 letmein letmein1 trustno1 whatever starwars startrek computer internet
michelle jennifer jessica jonathan samantha victoria benjamin christian christine elizabeth
alexander alexandra alexandre veronica danielle isabella gabriela gabriel fernando ricardo
francisco sebastian nicholas charlotte stephanie valentina catherine katherine brittany courtney
mercedes corvette chevrolet maverick mustang ferrari porsche lamborghini cadillac yamaha
chocolate cheesecake strawberry blueberry butterfly dragonfly elephant dolphins dolphin
liverpool arsenal chelsea barcelona realmadrid manchester juventus steelers cowboys lakers
redskins yankees packers patriots broncos rangers1 redwings blackhawk
qwertyui qwertyuiop qwerty12 qwerty123 qwerty1234 qwertz123 asdfghjk asdfghjkl zxcvbnm1 zxcvbnm123
1q2w3e4r 1q2w3e4r5t 1qaz2wsx 1qazxsw2 zaq12wsx zaq1zaq1 qazwsxedc qazwsx123 q1w2e3r4 q1w2e3r4t5 qweasdzxc
asdf1234 qwer1234 abcd1234 abc12345 abcd12345 a1b2c3d4 aa123456 a123456789 q123456789 test1234 pass1234 temp1234
admin123 admin1234 administrator adminadmin rootroot toor1234 changeme changeme1 changeit default1 guest123 letmein123
welcome123 user1234 master123 monkey123 dragon123 shadow123 hello123 hellohello login123 secret123 test12345 testtest
testing1 testing123 passpass pass12345 mypass123 newpass1 newpassword oldpassword nopassword password12 password123
internet1 computer1 football1 baseball1 princess1 sunshine1 superman1 starwars1 michael1 charlie1 jordan23
michaeljackson michael jackson5 jordan12 patrick1 anthony1 thomas123 andrew123 daniel123 david123 alex1234
midnight moonlight sunflower rainbows rainbow1 snowball snowflake starlight daylight summer01 winter01 spring01 autumn01
summertime wintertime christmas halloween valentine holiday1 birthday vacation
marlboro budweiser heineken guinness jackdaniels cocacola coca-cola pepsicola
scorpion scorpio1 panther1 wildcats bulldogs bulldog1 kittycat pussycat kitty123 doggy123 puppy123
hardcore metallica nirvana1 ironmaiden slipknot linkinpark greenday blink182 eminem123 beyonce1
pokemon1 pokemon123 minecraft fortnite roblox123 naruto123 dragonball zelda123 nintendo playstation xbox3600
warcraft starcraft counterstrike callofduty assassin gamer123 gamegame
einstein newton123 leonardo napoleon alexander1 cleopatra
america1 american canada123 australia brazil123 germany1 deutschland france123 england1 scotland ireland1
portugal argentina colombia mexico123 philippines indonesia pakistan bangladesh
california newyork1 newyorkcity losangeles lasvegas chicago1 houston1 florida1 texas123 london123 amsterdam
blink-182 trustnoone nothing1 anything something everything nothing123 whatever1 whocares dontknow idontknow
asshole1 bullshit fuckyou1 fuckyou123 fuckyou2 fuckfuck fuckoff1 motherfucker biteme123 suckmydick pussy123
goodluck godbless jesus123 jesuschrist jesusislord christ123 blessing blessed1 heavenly angel123 angels12 forever1 foreverlove
friends1 friendship bestfriend bestfriends sweetheart sweetie1 honeybee babygirl babygirl1 babyboy1 babyblue cutiepie
hottie123 sexysexy sexygirl sexyboy1 playboy1 playgirl lovergirl loverboy handsome beautiful gorgeous
security security1 access14 access123 private1 topsecret confidential secret12 system123 server123 oracle123 mysql123
postgres postgres1 redis123 database linux123 ubuntu123 windows1 windows10 microsoft google123 facebook facebook1 twitter1
instagram youtube1 linkedin snapchat whatsapp samsung1 samsung123 iphone123 android1 nokia123 motorola blackberry
business company1 manager1 office123 service1 support1 training student1 teacher1 school123 university college1
freedom1 liberty1 victory1 champion winner123 success1 powerful strongest diamond1 platinum golden123 silver123
thunder1 lightning hurricane tornado1 phoenix1 vampire1 werewolf skywalker darkvader darthvader chewbacca gandalf1
hogwarts harrypotter voldemort hermione lordofthering legolas1 frodo123 aragorn1
alohomora abracadabra opensesame simsalabim hakunamatata supercalifragilistic
monalisa picasso1 beethoven mozart123 shakespeare
hunter22 hunter123 ranger123 soldier1 warrior1 fighter1 samurai1 ninja123 pirate123 cowboy123 indian123
correcthorsebatterystaple correct horse battery staple
looproom looprooms vybelooprooms vybe1234 vybeloop
    """.split()  # noqa: SIM905 - a list of quoted words would be three times as long and worse to read
)
