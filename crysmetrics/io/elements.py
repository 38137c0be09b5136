"""Element symbols by atomic number; masses live with the metric that needs them."""

SYMBOLS: tuple[str, ...] = tuple(
    # Index 0 is no element, so that SYMBOLS[atomic_number] is the symbol.
    "X "
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb "
    "Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm "
    "Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split()
)

ATOMIC_NUMBERS: dict[str, int] = {symbol: z for z, symbol in enumerate(SYMBOLS) if z > 0}
# Hydrogen's isotopes have symbols of their own in CIF files; chemically they are hydrogen.
ATOMIC_NUMBERS.update({"D": 1, "T": 1})

MAX_ATOMIC_NUMBER = len(SYMBOLS) - 1
