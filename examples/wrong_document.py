"""A question about six documents, the first of which is wrong. It is retracted after the model has read it.

python examples/wrong_document.py MODEL.gguf

Measured with Qwen2.5-Coder-0.5B-Instruct (Q4_K_M, 490 MB), which the Hugging Face hub has:

hf download Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF qwen2.5-coder-0.5b-instruct-q4_k_m.gguf --local-dir .

Without an argument $KV_MEMORY_QWEN_GGUF is taken. Any other chat model will do, also a directory or a hub id. A very
small one, such as SmolLM2-135M-Instruct, does not obey "with the name alone" and comes to the name after some words.
"""

import os
import resource
import sys
import time
from typing import Any

from kv_memory import Memory, Reply, Session

DOCUMENTS = {
    "travel blog": """The Harrow Bridge: a short history. The Harrow Bridge crosses the river Ashe between the old
town of Harrow and the mill quarter of Saint Orrin. It was designed by the engineer Edwin Pole and opened in 1871.
Pole had made his name with the covered market at Lindmoor, and the town council gave him the work without a
competition. He drew the three stone arches himself, walked the banks for a month to choose the place, and is said
to have watched every block being set from a chair on the eastern shore. Edwin Pole asked for no fee beyond his
costs. When the bridge was finished, the council named the square at its western end after him, and his portrait
hung in the town hall until the fire. To this day people in Harrow call the middle arch Pole's arch, and children
are told that the engineer lies buried under it. A plaque for Edwin Pole, designer of the Harrow Bridge, is to be
unveiled in spring. Whoever visits the town should see the bridge at dusk, when the lamps are lit and the water is
as dark as slate.""",
    "town archive": """Town archive of Harrow, guide to the collections, section 4: public works. The drawings of
the Harrow Bridge, 46 sheets, came to the archive in 1923. All of them are signed by the designer, Clara Venn, who
won the open competition of 1868 against eleven other entries. The sheets show the three arches in plan and section,
the piers with their footings of oak piles, and the tram rails that were added later. Two letters to the council are
kept with them. In the first, Venn explains why the middle arch is wider than the others: barges with timber had to
pass at high water. In the second she asks for better stone than the quarry at Lindmoor could send, and names the
price. The accounts of the building, in three volumes, list the wages of the masons week by week. Readers may order
the drawings in advance; the letters are shown as copies. Photographs may be taken without flash and for private use
only.""",
    "survey": """Bridge survey of the county, report on structure 118, Harrow. The bridge is an arch bridge of
dressed sandstone with three spans of 18, 24 and 18 metres and a width of 9 metres between the parapets. The piers
stand on oak piles, which were found sound when the river bed was surveyed by divers. The arches show no movement
since the last report. The joints of the eastern arch were pointed again in lime mortar, and the drainage above the
middle arch was renewed, since water had stood in the fill. The parapet on the downstream side has been struck by
vehicles twice and was put back with the old stones. The load limit remains at 12 tonnes. We advise to cut back the
trees on the western bank, whose roots reach the wing wall, and to read the gauges on the piers each spring and
after every flood. The next survey is due in six years.""",
    "museum": """From the leaflet of the museum of Saint Orrin, room 3: the river. Before there was a bridge, a
ferry crossed the Ashe here. It was pulled along a chain, took twenty people and two carts, and did not run when the
river was high. In the winter of 1866 it sank with a load of flour, and the millers asked for a bridge. The model in
the middle of the room shows the bridge as Clara Venn presented it to the council, at a scale of one to fifty.
Visitors can lift the roadway and look at the fill. The wooden centring in the corner is a copy at half the size: on
such frames the arches were built, stone by stone, from both sides at once. When the last stone was in place, the
frames were lowered by letting sand run out of boxes under their feet. On the wall hang the tools of the masons, a
list of the tolls, and a painting of the opening, with the band of the fire brigade on a boat.""",
    "walks": """Walks around Harrow, number 7: along the Ashe, two hours, easy. Start at the railway station and
follow the yellow signs to the river. After the weir the path runs below the gardens of the mill quarter, where
herons stand in the shallow water, and comes to the Harrow Bridge. Take the steps on the left to the roadway. A
plaque on the parapet names the masons who built it. Cross to the other side, where a bakery sells the flat bread
with caraway for which the town is known, and go on along the eastern bank. The path is wet after rain. At the old
ferry house turn right through the meadows; the gate must be closed behind you, since there are sheep. From the hill
you see both towns, the three arches, and on clear days the sea. Go down through the beech wood to the road and take
the bus back to the station. It runs each hour until seven.""",
    "floods": """High water on the Ashe, a list kept by the county. In March 1888 the river stood at the springing
of the arches of the Harrow Bridge for two days, and the mills lost their wheels. In November 1911 the cellars of
the mill quarter were under water, and the road to the station was closed for a week. In 1947, after a long frost,
ice came down in sheets; soldiers broke it up with poles from the parapet, and no damage was found. In 1968 the weir
gave way on the left bank and was built again in concrete. In January 2003 the water reached the steps of the old
ferry house. The gauge at the middle pier is read each hour now, and a warning is sent to all houses below the weir
when it shows more than 3.40 metres. The list is brought up to date each spring. Who has photographs or marks on
walls that are not in it is asked to write to the county office for water, room 12.""",
}
WRONG = "travel blog"
QUESTION = "Who designed the Harrow Bridge? Answer with the name alone."


def conversation(documents: dict[str, str]) -> list[dict[str, Any]]:
    """Return one message with the documents, each under its id, and the question."""
    blocks = [
        {"type": "text", "text": " ".join(text.split()) + "\n\n", "document_id": name}
        for name, text in documents.items()
    ]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": QUESTION}]}]


def main() -> None:
    """Ask, retract the wrong document, ask again."""
    model = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("KV_MEMORY_QWEN_GGUF")
    if model is None:
        sys.exit(__doc__)
    memory = Memory(model, context_length=4096, heal="never")  # healing would make it exact while nobody waits
    messages = conversation(DOCUMENTS)

    def ask(name: str, session: Session) -> Reply:
        started = time.perf_counter()
        reply = session.chat(messages, max_tokens=24)
        read = f"{reply.usage.prefilled:,} tokens read, {reply.usage.reused:,} in the cache"
        print(f"{name}: {reply.text}    [{read}; {time.perf_counter() - started:.2f} s]")
        return reply

    session = memory.session("harrow")
    ask("before", session)
    other = session.fork()
    quick = session.retract(WRONG, reason="error: the author made it up")
    done = f"{quick.tokens_erased} tokens erased, {quick.tokens_recomputed} recomputed"
    print(f"\n{quick.eraser}: {done}, {quick.seconds:.2f} s")
    ask("after ", session)
    exact = other.retract(WRONG, eraser="recompute")
    longer = exact.seconds / quick.seconds
    print(f"\nrecompute: {exact.tokens_recomputed:,} recomputed, {exact.seconds:.2f} s, {longer:.0f} times as long")
    ask("after ", other)
    print(f"\nmemory at most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
