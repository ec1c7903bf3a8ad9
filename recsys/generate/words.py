"""Words that invented categories and titles are made of."""

CATEGORIES = (
    "Lamps", "Kettles", "Notebooks", "Puzzles", "Bicycles", "Headphones", "Teas", "Novels",
    "Rugs", "Tents", "Guitars", "Knives", "Seeds", "Clocks", "Cameras", "Scarves", "Chairs",
    "Candles", "Maps", "Boots", "Soaps", "Kites", "Telescopes", "Jams", "Backpacks", "Records",
    "Paints", "Mugs", "Blankets", "Radios", "Skates", "Prints", "Baskets", "Compasses", "Spices",
    "Hammocks", "Drums", "Pens", "Lanterns", "Gloves",
)  # fmt: skip

ADJECTIVES = (
    "Amber", "Quiet", "Northern", "Little", "Velvet", "Golden", "Hidden", "Autumn", "Silver",
    "Wandering", "Crimson", "Bright", "Ancient", "Gentle", "Electric", "Wooden", "Lunar", "Salty",
    "Frosty", "Emerald", "Royal", "Humble", "Copper", "Misty", "Brave", "Ivory", "Paper", "Sunlit",
    "Stormy", "Lazy", "Cobalt", "Rustic",
)  # fmt: skip

NOUNS = (
    "Harbour", "Meadow", "Falcon", "Orchard", "Lighthouse", "Canyon", "Fox", "Garden", "Comet",
    "Willow", "River", "Cottage", "Raven", "Summit", "Island", "Market", "Bridge", "Valley",
    "Heron", "Forest", "Prairie", "Station", "Otter", "Glacier", "Chapel", "Dune", "Maple",
    "Sparrow", "Anchor", "Mill", "Tower", "Lagoon",
)  # fmt: skip
